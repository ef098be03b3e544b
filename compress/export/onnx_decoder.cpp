#include "compress/export/onnx_decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/format/rope.h"

namespace autoglm::exports {
namespace {

using format::ModuleSpec;
using format::Role;

constexpr int32_t kInt64 = onnx::TensorProto::INT64, kFloat = onnx::TensorProto::FLOAT, kBool = onnx::TensorProto::BOOL;

class Decoder {
 public:
  Decoder(const format::StoredModel& model, OnnxWeights& weights, OnnxGraph& graph)
      : model_(model),
        config_(model.config),
        weights_(weights),
        graph_(graph),
        compute_(weights.target().compute),
        is_fused_(has_fused_attention(config_, weights.target())) {}

  void add() {
    add_inputs();
    const std::string ids = "input_ids";
    graph_.set_scope("/embedding");
    std::string hidden = weights_.embed(graph_, ids);
    add_mask();
    add_rotary();
    for (int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) hidden = block(layer, hidden);
    graph_.set_scope("/head");
    hidden = norm(hidden, find(Role::kFinalNorm));
    graph_.add_named("Cast", {weights_.linear(graph_, model_.head(), hidden)}, "logits", {{"to", int64_t{kFloat}}});
    graph_.add_output("logits", kFloat, {"batch", "sequence", config_.vocab_size});
    for (int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
      for (const char* part : {"key", "value"}) {
        graph_.add_output(fmt::format("present.{}.{}", layer, part), compute_,
                          {"batch", config_.num_key_value_heads, is_fused_ ? "room" : "total", config_.head_dim});
      }
    }
  }

 private:
  void add_inputs() {
    graph_.add_input("input_ids", kInt64, {"batch", "sequence"});
    graph_.add_input("attention_mask", kInt64, {"batch", "total"});
    graph_.add_input("position_ids", kInt64, {"batch", "sequence"});
    for (int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
      for (const char* part : {"key", "value"}) {
        graph_.add_input(fmt::format("past_key_values.{}.{}", layer, part), compute_,
                         {"batch", config_.num_key_value_heads, "past", config_.head_dim});
      }
    }
  }

  const ModuleSpec& find(Role role, int64_t layer = -1, int64_t expert = -1) const {
    return *model_.layout.find(role, layer, expert);
  }

  /// Where a query may look, of scores [batch, kv heads, queries per kv head, sequence, total].
  void add_mask() {
    graph_.set_scope("/mask");
    if (is_fused_) return add_fused_mask();
    const std::string past = size_of("past_key_values.0.key", 2), sequence = size_of("input_ids", 1);
    const std::string total = graph_.add("Add", {past, sequence});
    const std::string zero = graph_.scalar(int64_t{0}), one = graph_.scalar(int64_t{1});
    const std::string queries = graph_.add("Unsqueeze", {graph_.add("Range", {past, total, one}), graph_.ints({1})});
    const std::string causal = graph_.add("LessOrEqual", {graph_.add("Range", {zero, total, one}), queries});
    const std::string padding = graph_.add(
        "Unsqueeze", {graph_.add("Cast", {"attention_mask"}, {{"to", int64_t{kBool}}}), graph_.ints({1, 2, 3})});
    allowed_ = graph_.add("And", {causal, padding});
  }

  /// The same for GroupQueryAttention, which is causal by itself: what is added to scores [batch, heads, sequence,
  /// total], and how many positions count, once and for each sequence. The cache may have more room than that.
  void add_fused_mask() {
    constexpr int64_t kInt32 = onnx::TensorProto::INT32;
    const std::string total = size_of("attention_mask", 1), one = graph_.ints({1});
    const std::string batch = graph_.add("Gather", {graph_.add("Shape", {"attention_mask"}), graph_.ints({0})});
    const std::string last = graph_.add("Sub", {total, graph_.scalar(int64_t{1})});
    total_ = graph_.add("Cast", {total}, {{"to", kInt32}});
    last_ = graph_.add("Expand", {graph_.add("Cast", {last}, {{"to", kInt32}}), batch});
    const std::string seen = graph_.add(
        "Unsqueeze", {graph_.add("Cast", {"attention_mask"}, {{"to", int64_t{kBool}}}), graph_.ints({1, 2})});
    const std::string sequence = graph_.add("Gather", {graph_.add("Shape", {"input_ids"}), one});
    bias_ = graph_.add("Expand", {graph_.add("Where", {seen, number(0), number(least())}),
                                  graph_.add("Concat", {one, one, sequence, one}, {{"axis", int64_t{0}}})});
  }

  /// The lowest value of the type that is computed in.
  float least() const {
    constexpr float kLeastHalf = -65504;
    return compute_ == kFloat ? std::numeric_limits<float>::lowest() : kLeastHalf;
  }

  /// A constant of the type that is computed in, and values of float32 in it.
  std::string number(float value) { return graph_.scalar(value, compute_); }
  std::string to_compute(const std::string& x) { return graph_.cast(x, kFloat, compute_); }
  std::string to_float(const std::string& x) { return graph_.cast(x, compute_, kFloat); }

  std::string size_of(const std::string& value, int64_t axis) {
    return graph_.add("Gather", {graph_.add("Shape", {value}), graph_.scalar(axis)});
  }

  /// cos and sin [batch, sequence, 1, pairs].
  void add_rotary() {
    graph_.set_scope("/rotary");
    const std::vector<double> frequencies = format::rope_inverse_frequencies(config_);
    const auto pairs = static_cast<int64_t>(frequencies.size());
    const std::string positions = graph_.add("Cast", {"position_ids"}, {{"to", int64_t{kFloat}}});
    const std::string angles =
        graph_.add("Mul", {graph_.add("Unsqueeze", {positions, graph_.ints({2, 3})}),
                           graph_.floats(std::vector<float>(frequencies.begin(), frequencies.end()), {pairs})});
    cos_ = graph_.add("Cos", {angles});
    sin_ = graph_.add("Sin", {angles});
    if (const auto scaling = static_cast<float>(format::rope_attention_scaling(config_)); scaling != 1) {
      cos_ = graph_.add("Mul", {cos_, graph_.scalar(scaling)});
      sin_ = graph_.add("Mul", {sin_, graph_.scalar(scaling)});
    }
    cos_ = to_compute(cos_);
    sin_ = to_compute(sin_);
  }

  std::string block(int64_t layer, const std::string& input) {
    graph_.set_scope(fmt::format("/layers.{}/attention", layer));
    std::string mixed = attend(layer, norm(input, find(Role::kInputNorm, layer)));
    if (config_.sandwich_norms) mixed = norm(mixed, find(Role::kPostAttentionNorm, layer));
    const std::string hidden = graph_.add("Add", {input, mixed});

    graph_.set_scope(fmt::format("/layers.{}/mlp", layer));
    const std::string normed = norm(hidden, find(Role::kMlpNorm, layer));
    mixed = config_.is_moe_layer(layer) ? experts(layer, normed) : dense(layer, normed);
    if (config_.sandwich_norms) mixed = norm(mixed, find(Role::kPostMlpNorm, layer));
    return graph_.add("Add", {hidden, mixed});
  }

  /// RMSNorm over the last dimension, in the form that onnxruntime knows and in float32.
  std::string norm(const std::string& input, const ModuleSpec& module) {
    const std::string x = to_float(input);
    const std::string square = graph_.add("Pow", {x, graph_.scalar(2.0F)});
    const std::string mean = graph_.reduce("ReduceMean", square);
    const std::string stable = graph_.add("Add", {mean, graph_.scalar(static_cast<float>(config_.rms_norm_eps))});
    const std::string normed = graph_.add("Div", {x, graph_.add("Sqrt", {stable})});
    return to_compute(graph_.add("Mul", {normed, weights_.vector(graph_, module)}));
  }

  std::string reshaped(const std::string& x, const std::vector<int64_t>& shape) {
    return graph_.add("Reshape", {x, graph_.ints(shape)});
  }

  std::string transposed(const std::string& x, const std::vector<int64_t>& order) {
    return graph_.add("Transpose", {x}, {{"perm", order}});
  }

  std::string attend(int64_t layer, const std::string& x) {
    const int64_t heads = config_.num_attention_heads, kv_heads = config_.num_key_value_heads, n = config_.head_dim;
    OnnxGraph::Values qkv;
    if (config_.fused_qkv) {
      qkv = graph_.split(weights_.linear(graph_, find(Role::kQkv, layer), x), {heads * n, kv_heads * n, kv_heads * n});
    } else {
      for (const Role role : {Role::kQ, Role::kK, Role::kV})
        qkv.push_back(weights_.linear(graph_, find(role, layer), x));
    }
    std::string q = reshaped(qkv[0], {0, 0, heads, n}), k = reshaped(qkv[1], {0, 0, kv_heads, n});
    if (config_.qk_norm) {
      q = norm(q, find(Role::kQNorm, layer));
      k = norm(k, find(Role::kKNorm, layer));
    }
    q = rotate(q);
    k = rotate(k);
    const std::string mixed = is_fused_ ? fused(layer, q, k, qkv[2]) : softmax(layer, q, k, qkv[2]);
    return weights_.linear(graph_, find(Role::kO, layer), mixed);
  }

  /// The heads' outputs [batch, sequence, heads * head] for q, k [batch, sequence, heads, head] and v, as they come
  /// from the matrices, and the cache.
  std::string softmax(int64_t layer, std::string q, const std::string& k, const std::string& v) {
    const int64_t heads = config_.num_attention_heads, kv_heads = config_.num_key_value_heads, n = config_.head_dim;
    q = transposed(reshaped(q, {0, 0, kv_heads, heads / kv_heads, n}), {0, 2, 3, 1, 4});
    const std::string keys = append(layer, "key", transposed(k, {0, 2, 1, 3}));
    const std::string values = append(layer, "value", transposed(reshaped(v, {0, 0, kv_heads, n}), {0, 2, 1, 3}));

    // The queries of a group share its keys: [batch, kv heads, group, sequence, total].
    const std::string lying = graph_.add("Unsqueeze", {transposed(keys, {0, 1, 3, 2}), graph_.ints({2})});
    q = graph_.add("Mul", {q, number(1 / std::sqrt(static_cast<float>(n)))});  // before the sums, which float16 bounds
    std::string scores = graph_.add("Where", {allowed_, graph_.add("MatMul", {q, lying}), number(least())});
    scores = graph_.add("Softmax", {scores}, {{"axis", int64_t{-1}}});
    const std::string out = graph_.add("MatMul", {scores, graph_.add("Unsqueeze", {values, graph_.ints({2})})});
    return reshaped(transposed(out, {0, 3, 1, 2, 4}), {0, 0, heads * n});
  }

  /// The same by onnxruntime's GroupQueryAttention, which adds to the cache itself, in place where it has room.
  std::string fused(int64_t layer, const std::string& q, const std::string& k, const std::string& v) {
    const int64_t heads = config_.num_attention_heads, kv_heads = config_.num_key_value_heads, n = config_.head_dim;
    const auto cache = [&](const char* when, const char* part) { return fmt::format("{}.{}.{}", when, layer, part); };
    const std::string none;  // tables of cosines and sines, positions
    return graph_.add_contrib(
        "GroupQueryAttention",
        {reshaped(q, {0, 0, heads * n}), reshaped(k, {0, 0, kv_heads * n}), v, cache("past_key_values", "key"),
         cache("past_key_values", "value"), last_, total_, none, none, none, bias_},
        {{"num_heads", heads}, {"kv_num_heads", kv_heads}}, {cache("present", "key"), cache("present", "value")});
  }

  /// The cache with what is new, which is an output too.
  std::string append(int64_t layer, std::string_view part, const std::string& fresh) {
    std::string present = fmt::format("present.{}.{}", layer, part);
    graph_.add_named("Concat", {fmt::format("past_key_values.{}.{}", layer, part), fresh}, present,
                     {{"axis", int64_t{2}}});
    return present;
  }

  /// x [batch, sequence, heads, head], the first rotary_dim dimensions of a head turned.
  std::string rotate(const std::string& x) {
    const int64_t rotated = config_.rotary_dim, pairs = rotated / 2, rest = config_.head_dim - rotated;
    const bool interleaved = config_.rotary_layout == format::RotaryLayout::kInterleaved;
    std::vector<int64_t> sizes = interleaved ? std::vector{rotated} : std::vector{pairs, pairs};
    if (rest > 0) sizes.push_back(rest);
    OnnxGraph::Values parts = graph_.split(x, sizes);
    std::string even = parts[0], odd = interleaved ? "" : parts[1];
    if (interleaved) {  // [batch, sequence, heads, pairs, 2]
      const OnnxGraph::Values two = graph_.split(reshaped(parts[0], {0, 0, 0, pairs, 2}), {1, 1});
      even = graph_.add("Squeeze", {two[0], graph_.ints({-1})});
      odd = graph_.add("Squeeze", {two[1], graph_.ints({-1})});
    }
    std::string first = graph_.add("Sub", {graph_.add("Mul", {even, cos_}), graph_.add("Mul", {odd, sin_})});
    std::string second = graph_.add("Add", {graph_.add("Mul", {odd, cos_}), graph_.add("Mul", {even, sin_})});
    OnnxGraph::Values out = {first, second};
    if (interleaved) {
      for (std::string& half : out) half = graph_.add("Unsqueeze", {half, graph_.ints({-1})});
      out = {reshaped(graph_.add("Concat", out, {{"axis", int64_t{-1}}}), {0, 0, 0, rotated})};
    }
    if (rest > 0) out.push_back(parts.back());
    return out.size() == 1 ? out[0] : graph_.add("Concat", out, {{"axis", int64_t{-1}}});
  }

  std::string swiglu(const std::string& gate, const std::string& up) {
    const std::string silu = graph_.add("Mul", {gate, graph_.add("Sigmoid", {gate})});
    return graph_.add("Mul", {silu, up});
  }

  std::string dense(int64_t layer, const std::string& x) {
    OnnxGraph::Values parts;
    if (config_.fused_gate_up) {
      const int64_t width = config_.intermediate_size;
      parts = graph_.split(weights_.linear(graph_, find(Role::kGateUp, layer), x), {width, width});
    } else {
      parts = {weights_.linear(graph_, find(Role::kGate, layer), x),
               weights_.linear(graph_, find(Role::kUp, layer), x)};
    }
    return weights_.linear(graph_, find(Role::kDown, layer), swiglu(parts[0], parts[1]));
  }

  /// Every expert computes the tokens that chose it, and no others.
  std::string experts(int64_t layer, const std::string& normed) {
    const std::string x = reshaped(normed, {-1, config_.hidden_size});  // [tokens, hidden]
    const std::string routing = to_compute(route(layer, x));            // [tokens, experts]
    std::string out = to_compute(zeros_like(x));
    for (int64_t expert = 0; expert < config_.n_routed_experts; ++expert) {
      const std::string weight = graph_.add("Gather", {routing, graph_.scalar(expert)}, {{"axis", int64_t{1}}});
      const std::string tokens = graph_.add("Squeeze", {graph_.add("NonZero", {weight}), graph_.ints({0})});
      const std::string chosen = graph_.add("Gather", {x, tokens});
      const auto run = [&](Role role, const std::string& in) {
        return weights_.linear(graph_, find(role, layer, expert), in);
      };
      std::string y = run(Role::kExpertDown, swiglu(run(Role::kExpertGate, chosen), run(Role::kExpertUp, chosen)));
      const std::string share = graph_.add("Unsqueeze", {graph_.add("Gather", {weight, tokens}), graph_.ints({1})});
      y = graph_.add("Mul", {y, share});
      const std::string rows = graph_.add("Unsqueeze", {tokens, graph_.ints({1})});
      // A token chooses an expert once: no sum is needed where it is put back, which TensorRT does not have.
      out = graph_.add("ScatterND", {out, rows, graph_.add("Add", {graph_.add("Gather", {out, tokens}), y})});
    }
    if (config_.n_shared_experts > 0) {
      const auto run = [&](Role role, const std::string& in) { return weights_.linear(graph_, find(role, layer), in); };
      const std::string shared = run(Role::kSharedDown, swiglu(run(Role::kSharedGate, x), run(Role::kSharedUp, x)));
      out = graph_.add("Add", {out, shared});
    }
    return graph_.add("Reshape", {out, graph_.add("Shape", {normed})});
  }

  /// The share of each expert in each token, 0 for those that are not chosen (GLM-4.5: sigmoid scores, chosen by score
  /// plus correction within the best groups, shares without the correction).
  std::string route(int64_t layer, const std::string& x) {
    const int64_t total = config_.n_routed_experts, groups = config_.n_group;
    const std::string scores = graph_.add("Sigmoid", {weights_.linear(graph_, find(Role::kRouter, layer), x)});
    std::string choice = graph_.add("Add", {scores, weights_.vector(graph_, find(Role::kRouterCorrection, layer))});
    if (groups > 1) {
      const std::string by_group = reshaped(choice, {0, groups, total / groups});
      const std::string two = top(by_group, std::min<int64_t>(2, total / groups)).first;
      const std::string best = graph_.reduce("ReduceSum", two, false);
      const std::string kept = ones_at(best, top(best, config_.topk_group).second);  // [tokens, groups]
      const std::string is_kept =
          graph_.add("Greater", {graph_.add("Unsqueeze", {kept, graph_.ints({2})}), graph_.scalar(0.0F)});
      const std::string none = graph_.scalar(-std::numeric_limits<float>::infinity());
      choice = reshaped(graph_.add("Where", {is_kept, by_group, none}), {0, total});
    }
    const std::string chosen = ones_at(scores, top(choice, config_.num_experts_per_tok).second);
    std::string shares = graph_.add("Mul", {scores, chosen});
    if (config_.norm_topk_prob) {
      const std::string sum = graph_.reduce("ReduceSum", shares);
      shares = graph_.add("Div", {shares, graph_.add("Add", {sum, graph_.scalar(1e-20F)})});
    }
    return graph_.add("Mul", {shares, graph_.scalar(static_cast<float>(config_.routed_scaling_factor))});
  }

  /// The `count` largest along the last dimension, and where they stand.
  std::pair<std::string, std::string> top(const std::string& x, int64_t count) {
    const auto both = graph_.add_many("TopK", {x, graph_.ints({count})}, 2, {{"axis", int64_t{-1}}});
    return {both[0], both[1]};
  }

  std::string zeros_like(const std::string& x) { return graph_.add("ConstantOfShape", {graph_.add("Shape", {x})}); }

  /// 1 at the indices along the last dimension of something like `x`, 0 elsewhere.
  std::string ones_at(const std::string& x, const std::string& indices) {
    const std::string zeros = zeros_like(x);
    const std::string ones = graph_.add("Expand", {graph_.scalar(1.0F), graph_.add("Shape", {indices})});
    return graph_.add("ScatterElements", {zeros, indices, ones}, {{"axis", int64_t{-1}}});
  }

  const format::StoredModel& model_;
  const format::ModelConfig& config_;
  OnnxWeights& weights_;
  OnnxGraph& graph_;
  int32_t compute_;
  bool is_fused_;  // attention is onnxruntime's own
  std::string allowed_, cos_, sin_;
  std::string bias_, last_, total_;  // of fused attention
};

}  // namespace

Status check_onnx_decoder(const format::ModelConfig& config) {
  if (!format::has_fixed_frequencies(config)) {
    return invalid_argument(fmt::format(
        "onnx: rope_type {} has frequencies that change with the length of a sequence, which a graph cannot say",
        config.rope_type));
  }
  return ok_status();
}

bool has_fused_attention(const format::ModelConfig& config, const OnnxTarget& target) {
  constexpr int64_t kHeads = 8;  // what GroupQueryAttention wants a head's size to be a multiple of
  return target.matmul_nbits && config.head_dim % kHeads == 0;
}

void add_onnx_decoder(const format::StoredModel& model, OnnxWeights& weights, OnnxGraph& graph) {
  Decoder(model, weights, graph).add();
}

}  // namespace autoglm::exports
