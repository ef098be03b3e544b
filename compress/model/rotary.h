#pragma once
/// Rotary position embedding: RoFormer (Su et al. 2021), eq. 34, on the first `rotary_dim` dimensions of a head.
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "core/format/model_config.h"

namespace autoglm::model {

/// cos and sin for positions 0..length-1. Immutable after construction.
struct Rotary {
  at::Tensor cos, sin;  ///< [length, rotary_dim / 2], float32

  /// `sequence_length`: see format::rope_inverse_frequencies; 0 stands for `length`.
  static Rotary build(const format::ModelConfig& config, int64_t length, at::Device device,
                      int64_t sequence_length = 0);
  int64_t length() const { return cos.defined() ? cos.size(0) : 0; }
};

/// Rotates x [batch, tokens, heads, head_dim] in place. `cos` and `sin` are [batch or 1, tokens, 1, rotary_dim / 2]:
/// the pairs are dimensions (2i, 2i+1) when interleaved and (i, i + rotary_dim/2) when half-split. The products are
/// computed in the dtype of x, as transformers does.
void rotate(at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, format::RotaryLayout layout);

}  // namespace autoglm::model
