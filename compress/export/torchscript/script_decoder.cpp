#include "compress/export/torchscript/script_decoder.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/format/rope.h"

namespace autoglm::exports {
namespace {

using format::ModelConfig;
using format::ModuleSpec;
using format::Role;

/// One block's class, put together from what the family has.
class Layer {
 public:
  Layer(const format::StoredModel& model, ScriptWeights& weights, ScriptClasses& classes, int64_t layer)
      : model_(model), config_(model.config), weights_(weights), classes_(classes), layer_(layer) {}

  torch::jit::Module make() {
    add_norm();
    add_rotate();
    add_attention();
    config_.is_moe_layer(layer_) ? add_experts() : add_dense();
    std::string mixed = "y", mlp = "self.mlp(self.norm(x, self.mlp_norm))";
    add_vector("input_norm", Role::kInputNorm);
    add_vector("mlp_norm", Role::kMlpNorm);
    if (config_.sandwich_norms) {
      add_vector("post_attention_norm", Role::kPostAttentionNorm);
      add_vector("post_mlp_norm", Role::kPostMlpNorm);
      mixed = "self.norm(y, self.post_attention_norm)";
      mlp = fmt::format("self.norm({}, self.post_mlp_norm)", mlp);
    }
    source_ += fmt::format(R"(
def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, keys: Tensor, values: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    y, keys, values = self.attend(self.norm(x, self.input_norm), cos, sin, mask, keys, values)
    x = x + {}
    return x + {}, keys, values
)",
                           mixed, mlp);
    return classes_.make("Layer", source_, attributes_);
  }

 private:
  const ModuleSpec& find(Role role, int64_t expert = -1) const { return *model_.layout.find(role, layer_, expert); }
  void add_vector(const std::string& name, Role role) { attributes_.push_back({name, weights_.tensor(find(role))}); }
  void add_linear(const std::string& name, Role role) {
    attributes_.push_back({name, weights_.linear(find(role))._ivalue()});
  }

  void add_norm() {
    source_ += fmt::format(R"(
def norm(self, x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(torch.mean(x * x, [-1], True) + {:.17g}) * weight.to(6)
)",
                           config_.rms_norm_eps);
  }

  /// x [batch, sequence, heads, head], the first rotary_dim dimensions of a head turned.
  void add_rotate() {
    const int64_t rotated = config_.rotary_dim;
    const bool interleaved = config_.rotary_layout == format::RotaryLayout::kInterleaved;
    const std::string even = interleaved ? fmt::format("0:{}:2", rotated) : fmt::format(":{}", rotated / 2);
    const std::string odd = fmt::format("{}:{}{}", interleaved ? 1 : rotated / 2, rotated, interleaved ? ":2" : "");
    source_ += fmt::format(R"(
def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even = x[..., {}]
    odd = x[..., {}]
    turned = {}
)",
                           even, odd,
                           interleaved ? "torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)"
                                       : "torch.cat([even * cos - odd * sin, odd * cos + even * sin], -1)");
    source_ += rotated == config_.head_dim ? "    return turned\n"
                                           : fmt::format("    return torch.cat([turned, x[..., {}:]], -1)\n", rotated);
  }

  void add_attention() {
    const int64_t heads = config_.num_attention_heads, kv_heads = config_.num_key_value_heads, n = config_.head_dim;
    source_ += R"(
def attend(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, keys: Tensor, values: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    batch = x.size(0)
    length = x.size(1)
)";
    if (config_.fused_qkv) {
      add_linear("qkv", Role::kQkv);
      source_ += fmt::format("    q, k, v = torch.split_with_sizes(self.qkv.forward(x), [{}, {}, {}], -1)\n", heads * n,
                             kv_heads * n, kv_heads * n);
    } else {
      add_linear("q", Role::kQ);
      add_linear("k", Role::kK);
      add_linear("v", Role::kV);
      source_ += "    q, k, v = self.q.forward(x), self.k.forward(x), self.v.forward(x)\n";
    }
    source_ += fmt::format(R"(
    q = q.reshape(batch, length, {0}, {2})
    k = k.reshape(batch, length, {1}, {2})
    v = v.reshape(batch, length, {1}, {2})
)",
                           heads, kv_heads, n);
    if (config_.qk_norm) {
      add_vector("q_norm", Role::kQNorm);
      add_vector("k_norm", Role::kKNorm);
      source_ += "    q, k = self.norm(q, self.q_norm), self.norm(k, self.k_norm)\n";
    }
    add_linear("o", Role::kO);
    source_ += fmt::format(R"(
    q = self.rotate(q, cos, sin).transpose(1, 2)
    keys = torch.cat([keys, self.rotate(k, cos, sin).transpose(1, 2)], 2)
    values = torch.cat([values, v.transpose(1, 2)], 2)
    y = torch.scaled_dot_product_attention(q, keys, values, mask, 0.0, False, scale={:.17g}, enable_gqa={})
    return self.o.forward(y.transpose(1, 2).reshape(batch, length, {})), keys, values
)",
                           1 / std::sqrt(static_cast<double>(n)), heads == kv_heads ? "False" : "True", heads * n);
  }

  void add_dense() {
    if (config_.fused_gate_up) {
      add_linear("gate_up", Role::kGateUp);
      source_ += fmt::format(R"(
def mlp(self, x: Tensor) -> Tensor:
    gate, up = torch.split_with_sizes(self.gate_up.forward(x), [{0}, {0}], -1)
)",
                             config_.intermediate_size);
    } else {
      add_linear("gate", Role::kGate);
      add_linear("up", Role::kUp);
      source_ += R"(
def mlp(self, x: Tensor) -> Tensor:
    gate, up = self.gate.forward(x), self.up.forward(x)
)";
    }
    add_linear("down", Role::kDown);
    source_ += "    return self.down.forward(torch.silu(gate) * up)\n";
  }

  torch::jit::Module expert(Role gate, Role up, Role down, int64_t index) {
    return classes_.make("Expert", R"(
def forward(self, x: Tensor) -> Tensor:
    return self.down.forward(torch.silu(self.gate.forward(x)) * self.up.forward(x))
)",
                         {{"gate", weights_.linear(find(gate, index))._ivalue()},
                          {"up", weights_.linear(find(up, index))._ivalue()},
                          {"down", weights_.linear(find(down, index))._ivalue()}});
  }

  /// GLM-4.5's routing: sigmoid scores, chosen by score plus correction within the best groups, shares without the
  /// correction. Every expert computes the tokens that chose it, and no others.
  void add_experts() {
    const int64_t total = config_.n_routed_experts, groups = config_.n_group;
    add_linear("router", Role::kRouter);
    add_vector("router_correction", Role::kRouterCorrection);
    source_ += fmt::format(R"(
def mlp(self, x: Tensor) -> Tensor:
    flat = x.reshape(-1, {})
    scores = torch.sigmoid(self.router.forward(flat))
    choice = scores + self.router_correction.to(6)
)",
                           config_.hidden_size);
    if (groups > 1) {
      source_ += fmt::format(R"(
    by_group = choice.reshape(-1, {0}, {1})
    best = torch.sum(torch.topk(by_group, {2}, -1)[0], [-1])
    kept = torch.scatter(torch.zeros_like(best), 1, torch.topk(best, {3}, -1)[1], 1.0)
    choice = torch.masked_fill(by_group, kept.unsqueeze(2) == 0, -3.0e38).reshape(-1, {4})
)",
                             groups, total / groups, std::min<int64_t>(2, total / groups), config_.topk_group, total);
    }
    source_ += fmt::format(R"(
    chosen = torch.topk(choice, {}, -1)[1]
    shares = torch.gather(scores, 1, chosen)
)",
                           config_.num_experts_per_tok);
    if (config_.norm_topk_prob) source_ += "    shares = shares / (torch.sum(shares, [-1], True) + 1e-20)\n";
    source_ += fmt::format("    shares = shares * {:.17g}\n", config_.routed_scaling_factor);
    if (config_.n_shared_experts > 0) {
      attributes_.push_back({"shared", expert(Role::kSharedGate, Role::kSharedUp, Role::kSharedDown, -1)._ivalue()});
      source_ += "    y = self.shared.forward(flat)\n";
    } else {
      source_ += "    y = torch.zeros_like(flat)\n";
    }
    for (int64_t i = 0; i < total; ++i) {
      const std::string name = fmt::format("expert_{}", i);
      attributes_.push_back({name, expert(Role::kExpertGate, Role::kExpertUp, Role::kExpertDown, i)._ivalue()});
      source_ += fmt::format(R"(
    at = torch.nonzero(chosen == {0})
    if at.size(0) > 0:
        tokens = at.select(1, 0)
        share = shares[tokens, at.select(1, 1)].unsqueeze(1)
        y.index_add_(0, tokens, self.{1}.forward(flat.index_select(0, tokens)) * share)
)",
                             i, name);
    }
    source_ += "    return y.reshape(x.shape)\n";
  }

  const format::StoredModel& model_;
  const ModelConfig& config_;
  ScriptWeights& weights_;
  ScriptClasses& classes_;
  int64_t layer_;
  std::string source_;
  std::vector<ScriptAttribute> attributes_;
};

}  // namespace

torch::jit::Module script_decoder(const format::StoredModel& model, ScriptWeights& weights, ScriptClasses& classes) {
  const ModelConfig& config = model.config;
  const std::vector<double> frequencies = format::rope_inverse_frequencies(config);
  const std::vector<float> rounded(frequencies.begin(), frequencies.end());
  std::vector<ScriptAttribute> attributes = {{"embedding", weights.embedding()._ivalue()},
                                             {"inverse_frequencies", at::tensor(rounded)},
                                             {"final_norm", weights.tensor(*model.layout.find(Role::kFinalNorm))}};
  std::string head = "self.embedding.head(x)";
  if (const ModuleSpec* own = model.layout.find(Role::kHead)) {
    attributes.push_back({"lm_head", weights.linear(*own)._ivalue()});
    head = "self.lm_head.forward(x)";
  }
  std::string source = fmt::format(R"(
def forward(self, input_ids: Tensor, cache: List[Tensor], attention_mask: Optional[Tensor] = None, position_ids: Optional[Tensor] = None, logits_to_keep: int = 0) -> Tuple[Tensor, List[Tensor]]:
    assert len(cache) == 0 or len(cache) == {0}, "cache: give [], or what the call before returned"
    length = input_ids.size(1)
    device = input_ids.device
    past = 0
    if len(cache) > 0:
        past = cache[0].size(2)
    else:
        cache = [torch.zeros([input_ids.size(0), {1}, 0, {2}], dtype=6, device=device) for _ in range({0})]
    total = past + length
    queries = torch.arange(past, total, device=device)
    mask = (torch.arange(total, device=device).unsqueeze(0) <= queries.unsqueeze(1)).unsqueeze(0).unsqueeze(0)
    positions = queries.unsqueeze(0)
    if attention_mask is not None:
        assert attention_mask.size(1) == total, "attention_mask: give one column for each token, the cache's included"
        real = attention_mask != 0
        own = torch.arange(total, device=device).unsqueeze(0) == queries.unsqueeze(1)
        mask = torch.logical_or(torch.logical_and(mask, real.unsqueeze(1).unsqueeze(1)), own)  # padding sees itself, not nothing
        positions = torch.clamp_min(torch.cumsum(real, 1) - 1, 0).narrow(1, past, length)
    if position_ids is not None:
        positions = position_ids
    angles = positions.to(6).unsqueeze(2).unsqueeze(3) * self.inverse_frequencies
    cos = torch.cos(angles) * {3:.17g}
    sin = torch.sin(angles) * {3:.17g}
    x = self.embedding.forward(input_ids)
    present: List[Tensor] = []
)",
                                   2 * config.num_hidden_layers, config.num_key_value_heads, config.head_dim,
                                   format::rope_attention_scaling(config));
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    attributes.push_back({fmt::format("layer_{}", i), Layer(model, weights, classes, i).make()._ivalue()});
    source += fmt::format(R"(
    x, keys, values = self.layer_{0}.forward(x, cos, sin, mask, cache[{1}], cache[{2}])
    present += [keys, values]
)",
                          i, 2 * i, 2 * i + 1);
  }
  source += fmt::format(R"(
    if logits_to_keep > 0:
        x = x[:, -logits_to_keep:]
    x = x * torch.rsqrt(torch.mean(x * x, [-1], True) + {:.17g}) * self.final_norm.to(6)
    return {}, present
)",
                        config.rms_norm_eps, head);
  return classes.make("Decoder", source, attributes);
}

}  // namespace autoglm::exports
