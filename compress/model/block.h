#pragma once
/// Block: the weights of one decoder layer in memory, and the mathematics that runs it.
///
/// What differs between families is which of these parts are present; the order of computation is one function.
#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "compress/model/linear.h"
#include "compress/model/rotary.h"
#include "core/base/cancel.h"
#include "core/format/model_config.h"
#include "core/format/tensor_layout.h"

namespace autoglm::model {

struct Mlp {
  std::vector<Linear> gate_up;  ///< {gate, up}, or {gate_up} fused as [gate; up]
  Linear down;
};

struct Moe {
  at::Tensor router;      ///< [experts, hidden], float32
  at::Tensor correction;  ///< [experts] float32, added to the scores when choosing; undefined: none
  std::vector<Mlp> experts;
  std::optional<Mlp> shared;
};

struct Block {
  int64_t layer = 0;
  at::Tensor input_norm, mlp_norm;                ///< [hidden]
  at::Tensor post_attention_norm, post_mlp_norm;  ///< [hidden], the sandwich norms; undefined where absent
  std::vector<Linear> qkv;                        ///< {q, k, v}, or {qkv} fused as [q; k; v]
  at::Tensor q_norm, k_norm;                      ///< [head_dim], undefined where absent
  Linear o;
  std::optional<Mlp> mlp;  ///< exactly one of mlp and moe
  std::optional<Moe> moe;

  /// Every Linear of a stage, in file order (MoE: of all experts, then the shared ones).
  std::vector<Linear*> linears(format::Stage stage);
  /// Bytes of all its tensors.
  int64_t bytes() const;
};

/// Where a block keeps the norm of this role; nullptr for what is no norm of a block.
at::Tensor Block::*norm_member(format::Role role);

/// Keys and values of one layer; grows by what is appended, doubling its capacity.
struct LayerCache {
  at::Tensor keys, values;  ///< [batch, kv_heads, capacity, head_dim]
  int64_t length = 0;

  /// Appends [batch, kv_heads, tokens, head_dim] each; returns all keys and values held, [.., length, ..].
  std::pair<at::Tensor, at::Tensor> append(const at::Tensor& new_keys, const at::Tensor& new_values);
};

/// Called with the input of each Linear before it multiplies: `x` is [tokens, in], before any activation quantization.
/// Linears that share one tensor as input are reported together, so that statistics are computed once. A routed expert
/// reports the tokens it was given; one that got none is not reported.
using InputTap =
    std::function<void(format::Stage stage, const std::vector<const Linear*>& linears, const at::Tensor& x)>;

struct ForwardOptions {
  InputTap tap;                             ///< none: plain forward
  std::optional<format::Stage> stop_after;  ///< return an undefined tensor once the taps of this stage were called
  LayerCache* cache = nullptr;              ///< append to it and attend to all it holds
  at::Tensor key_padding;                   ///< [batch, keys] bool, true = attend; undefined: all
  at::Tensor positions;                     ///< [batch, tokens] int64; undefined: cache length + 0..tokens-1
  const CancelToken* cancel = nullptr;      ///< looked at between sub-layers: cancelled, an undefined tensor returns
};

/// x / rms(x) * weight over the last dimension; the statistics in float32, as Hugging Face computes it (Zhang and
/// Sennrich 2019, eq. 4).
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

/// hidden [batch, tokens, hidden] -> the same shape, causal. `rotary` must reach the last position. Pure where there is
/// no cache; differentiable (it sets no grad mode: callers who want none hold an at::NoGradGuard). Throws c10::Error,
/// so callers run inside tensor::guarded.
at::Tensor forward(const format::ModelConfig& config, const Block& block, const Rotary& rotary,
                   const at::Tensor& hidden, const ForwardOptions& options = {});

/// `forward` in two halves: hidden -> middle = hidden + attention(hidden), middle -> middle + mlp(middle).
at::Tensor attention_half(const format::ModelConfig& config, const Block& block, const Rotary& rotary,
                          const at::Tensor& hidden, const ForwardOptions& options = {});
at::Tensor mlp_half(const format::ModelConfig& config, const Block& block, const at::Tensor& middle,
                    const ForwardOptions& options = {});

/// The end of a half, from the input of its last linear that a tap has seen: of o, [batch, tokens, heads * head_dim],
/// and of down, [batch, tokens, intermediate], of a block with a dense MLP.
at::Tensor attention_output(const format::ModelConfig& config, const Block& block, const at::Tensor& hidden,
                            const at::Tensor& o_input);
at::Tensor mlp_output(const format::ModelConfig& config, const Block& block, const at::Tensor& middle,
                      const at::Tensor& down_input);

}  // namespace autoglm::model
