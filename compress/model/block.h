#pragma once
/// Block: the weights of one decoder layer in memory, and the mathematics that runs it.
///
/// What differs between families is which of these parts are present; the order of computation is one function.
#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/format/model_config.h"
#include "core/format/quant_scheme.h"
#include "core/format/tensor_layout.h"

namespace autoglm::model {

/// y = x W^T + b. `weight` is [out, in] in the compute dtype (dequantized where it was stored quantized).
struct Linear {
  format::ModuleSpec spec;                            ///< name, role, expert
  at::Tensor weight;
  at::Tensor bias;                                    ///< undefined: none
  std::optional<format::QuantArgs> input_activations; ///< quantize x (dynamic per token) before multiplying

  at::Tensor operator()(const at::Tensor& x) const;   ///< [..., in] -> [..., out]
};

struct Mlp {
  std::vector<Linear> gate_up;   ///< {gate, up}, or {gate_up} fused as [gate; up]
  Linear down;
};

struct Moe {
  at::Tensor router;             ///< [experts, hidden], float32
  at::Tensor correction;         ///< [experts], added to the scores when choosing
  std::vector<Mlp> experts;
  std::optional<Mlp> shared;
};

struct Block {
  int64_t layer = 0;
  at::Tensor input_norm, post_attention_norm, mlp_norm, post_mlp_norm;  ///< [hidden]; sandwich norms undefined where absent
  std::vector<Linear> qkv;       ///< {q, k, v}, or {qkv} fused as [q; k; v]
  at::Tensor q_norm, k_norm;     ///< [head_dim], undefined where absent
  Linear o;
  std::optional<Mlp> mlp;        ///< exactly one of mlp and moe
  std::optional<Moe> moe;

  /// Every Linear of a stage, in file order (MoE: of all experts, then the shared ones).
  std::vector<Linear*> linears(format::Stage stage);
};

/// cos and sin of the rotary embedding for positions 0..length-1, as the family lays them out.
struct Rotary {
  at::Tensor cos, sin;           ///< [length, rotary_dim / 2], float32
  static Rotary build(const format::ModelConfig& config, int64_t length, at::Device device);
};

/// Keys and values of one layer; grows by what is appended.
struct LayerCache {
  at::Tensor keys, values;       ///< [batch, kv_heads, capacity, head_dim]
  int64_t length = 0;
};

/// Called with the input of each Linear before it multiplies: `x` is [tokens, in]. Linears that share one tensor as
/// input are reported together, so that statistics are computed once.
using InputTap = std::function<void(format::Stage stage, const std::vector<const Linear*>& linears, const at::Tensor& x)>;

struct ForwardOptions {
  InputTap tap;                              ///< none: plain forward
  std::optional<format::Stage> stop_after;   ///< return as soon as the taps of this stage were called (result undefined)
  LayerCache* cache = nullptr;               ///< append to it and attend to all it holds
  at::Tensor key_padding;                    ///< [batch, keys] bool, true = attend; undefined: all
  at::Tensor positions;                      ///< [batch, tokens] int64; undefined: cache length + 0..tokens-1
};

/// hidden [batch, tokens, hidden] -> the same shape, causal. Throws c10::Error (guarded by Decoder's callers).
at::Tensor forward(const format::ModelConfig& config, const Block& block, const Rotary& rotary, const at::Tensor& hidden,
                   const ForwardOptions& options = {});

}  // namespace autoglm::model
