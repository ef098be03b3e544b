#pragma once
/// Linear: one matrix of the model, with the quantization of its input where the scheme asks for it.
#include <ATen/core/Tensor.h>

#include <optional>

#include "core/format/stored_model.h"
#include "core/format/tensor_layout.h"

namespace autoglm::model {

/// y = x W^T + b. `weight` is [out, in] in the compute dtype (dequantized where it was stored quantized).
struct Linear {
  format::ModuleSpec spec;  ///< name, role, expert
  at::Tensor weight;
  at::Tensor bias;                          ///< undefined: none
  std::optional<format::InputQuant> input;  ///< quantize x before multiplying

  at::Tensor operator()(const at::Tensor& x) const;  ///< [..., in] -> [..., out]
};

/// What quantization to integers makes of activations x [..., in], in the dtype of x: rounded and back, with the static
/// scale of the whole tensor, or a dynamic one (and zero point) from the range of each token (Strategy::kToken) or of
/// the tensor (kTensor); as compressed-tensors computes it (quantization/utils/helpers.py, calculate_qparams;
/// lifecycle/forward_helpers.py, _quantize_dequantize). One difference: a token is a row here whatever the rank of x,
/// while compressed-tensors takes one dynamic scale for a whole two-dimensional x. Where x needs a gradient, it is that
/// of x (straight-through).
at::Tensor fake_quantize(const at::Tensor& x, const format::InputQuant& quant);

/// Whether `fake_quantize` can do it.
bool can_fake_quantize(const format::QuantArgs& args);

}  // namespace autoglm::model
