#pragma once
/// SmoothQuant: moves the outliers of activations into the weights, so that both round well. G. Xiao et al.,
/// "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", 2023, arXiv:2211.10438.
///
/// Folds into norms alone: channel j of the input is divided, and column j of what reads it multiplied, by
/// s_j = max|x_j|^α / max|w_j|^(1-α) (equation 4). The paper takes one α for a model (0.5); here it is searched for
/// each norm by the error of the rounded outputs.
#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "compress/pass/smoother.h"
#include "core/base/status.h"

namespace autoglm::quant {

/// "smoothquant" with the option `strength` (0..1): that α alone in place of the search.
Result<std::unique_ptr<pass::Smoother>> make_smoothquant(const nlohmann::json& options);

}  // namespace autoglm::quant
