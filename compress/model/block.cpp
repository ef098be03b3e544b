#include "compress/model/block.h"

#include <ATen/ATen.h>

#include "compress/model/layers.h"

namespace autoglm::model {
namespace {

void append(std::vector<Linear>& from, std::vector<Linear*>& to) {
  for (Linear& linear : from) to.push_back(&linear);
}

}  // namespace

std::vector<Linear*> Block::linears(format::Stage stage) {
  std::vector<Linear*> found;
  const auto of_mlp = [&](Mlp& part) {
    if (stage == format::Stage::kGateUp) append(part.gate_up, found);
    if (stage == format::Stage::kDown) found.push_back(&part.down);
  };
  if (stage == format::Stage::kQkv) append(qkv, found);
  if (stage == format::Stage::kO) found.push_back(&o);
  if (mlp) of_mlp(*mlp);
  if (moe) {
    for (Mlp& expert : moe->experts) of_mlp(expert);
    if (moe->shared) of_mlp(*moe->shared);
  }
  return found;
}

at::Tensor Block::*norm_member(format::Role role) {
  switch (role) {
    case format::Role::kInputNorm: return &Block::input_norm;
    case format::Role::kPostAttentionNorm: return &Block::post_attention_norm;
    case format::Role::kMlpNorm: return &Block::mlp_norm;
    case format::Role::kPostMlpNorm: return &Block::post_mlp_norm;
    case format::Role::kQNorm: return &Block::q_norm;
    case format::Role::kKNorm: return &Block::k_norm;
    default: return nullptr;
  }
}

int64_t Block::bytes() const {
  int64_t total = 0;
  const auto add = [&](const at::Tensor& tensor) {
    total += tensor.defined() ? static_cast<int64_t>(tensor.nbytes()) : 0;
  };
  for (const at::Tensor& norm : {input_norm, mlp_norm, post_attention_norm, post_mlp_norm, q_norm, k_norm}) add(norm);
  if (moe) {
    add(moe->router);
    add(moe->correction);
  }
  for (const format::Stage stage : format::kStages) {
    for (const Linear* linear : const_cast<Block*>(this)->linears(stage)) {
      add(linear->weight);
      add(linear->bias);
    }
  }
  return total;
}

bool enter(format::Stage stage, std::span<const Linear> linears, const at::Tensor& x, const ForwardOptions& options) {
  if (options.cancel != nullptr && options.cancel->is_cancelled()) return false;
  if (options.tap) {
    std::vector<const Linear*> sharing;
    for (const Linear& linear : linears) sharing.push_back(&linear);
    options.tap(stage, sharing, x.reshape({-1, x.size(-1)}));
  }
  return options.stop_after != stage;
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  // The 2-norm gives the mean square in one pass, without a squared copy of x.
  const at::Tensor mean_square =
      at::linalg_vector_norm(x, 2, {-1}, /*keepdim=*/true, at::kFloat).square().div_(x.size(-1));
  const at::Tensor scaled = x * mean_square.add_(eps).rsqrt_();  // float32
  return scaled.to(x.scalar_type()).mul_(weight);
}

at::Tensor run_mlp(const Mlp& mlp, const at::Tensor& x, const ForwardOptions& options) {
  if (!enter(format::Stage::kGateUp, mlp.gate_up, x, options)) return {};
  at::Tensor gate, up;
  if (mlp.gate_up.size() == 1) {
    const std::vector<at::Tensor> halves = mlp.gate_up[0](x).chunk(2, -1);
    gate = halves[0];
    up = halves[1];
  } else {
    gate = mlp.gate_up[0](x);
    up = mlp.gate_up[1](x);
  }
  const at::Tensor inner = at::silu(gate).mul_(up);
  if (!enter(format::Stage::kDown, {&mlp.down, 1}, inner, options)) return {};
  return mlp.down(inner);
}

namespace {

at::Tensor add_attention(const format::ModelConfig& config, const Block& block, const at::Tensor& hidden,
                         at::Tensor mixed) {
  if (block.post_attention_norm.defined()) mixed = rms_norm(mixed, block.post_attention_norm, config.rms_norm_eps);
  return mixed.add_(hidden);
}

at::Tensor add_mlp(const format::ModelConfig& config, const Block& block, const at::Tensor& middle, at::Tensor out) {
  if (block.post_mlp_norm.defined()) out = rms_norm(out, block.post_mlp_norm, config.rms_norm_eps);
  return out.add_(middle);
}

}  // namespace

at::Tensor attention_half(const format::ModelConfig& config, const Block& block, const Rotary& rotary,
                          const at::Tensor& hidden, const ForwardOptions& options) {
  const at::Tensor mixed =
      attention(config, block, rotary, rms_norm(hidden, block.input_norm, config.rms_norm_eps), options);
  return mixed.defined() ? add_attention(config, block, hidden, mixed) : at::Tensor();
}

at::Tensor attention_output(const format::ModelConfig& config, const Block& block, const at::Tensor& hidden,
                            const at::Tensor& o_input) {
  return add_attention(config, block, hidden, block.o(o_input));
}

at::Tensor mlp_half(const format::ModelConfig& config, const Block& block, const at::Tensor& middle,
                    const ForwardOptions& options) {
  const at::Tensor x = rms_norm(middle, block.mlp_norm, config.rms_norm_eps).view({-1, config.hidden_size});
  const at::Tensor out = block.moe ? run_moe(config, *block.moe, x, options) : run_mlp(*block.mlp, x, options);
  return out.defined() ? add_mlp(config, block, middle, out.view(middle.sizes())) : at::Tensor();
}

at::Tensor mlp_output(const format::ModelConfig& config, const Block& block, const at::Tensor& middle,
                      const at::Tensor& down_input) {
  return add_mlp(config, block, middle, block.mlp->down(down_input));
}

at::Tensor forward(const format::ModelConfig& config, const Block& block, const Rotary& rotary,
                   const at::Tensor& hidden, const ForwardOptions& options) {
  const at::Tensor middle = attention_half(config, block, rotary, hidden, options);
  return middle.defined() ? mlp_half(config, block, middle, options) : at::Tensor();
}

}  // namespace autoglm::model
