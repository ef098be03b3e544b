#pragma once
/// Bias correction: what quantizing a weight takes from the mean of its outputs is given back by its bias (Nagel et al.
/// 2019, arXiv:1906.04721, section 4.2, with the mean input found by calibration). Costs nothing where there is a bias.
#include <ATen/core/Tensor.h>

#include "compress/pass/pass.h"
#include "core/base/cancel.h"
#include "core/base/status.h"

namespace autoglm::pass {

/// (W - Q) E[x] [rows] float32 on the CPU, of a target that has its result; `mean` [cols] is E[x].
Result<at::Tensor> mean_shift(const Target& target, const at::Tensor& mean, CancelToken& cancel);

}  // namespace autoglm::pass
