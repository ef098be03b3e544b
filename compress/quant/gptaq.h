#pragma once
/// GPTAQ: GPTQ that also makes up for what the compressed predecessors did to its inputs. Y. Li et al., "GPTAQ:
/// Efficient Finetuning-Free Quantization for Asymmetric Calibration", 2025, arXiv:2504.02692.
///
/// With x the input that the compressed predecessors give and x + d the one that the source has, the rows of Q minimize
/// |(x + d) w^T - x q^T|^2. With e = w - q, H = sum x x^T = R R^T (hessian_factor.h) and C = sum d x^T this is
/// |e R + w C R^-T|^2 and a constant: GPTQ's own loss, whose running sums begin at w C R^-T instead of zero. So one
/// triangular solve for each input and one product for each weight are all it costs.
#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "compress/pass/pass.h"
#include "core/base/status.h"

namespace autoglm::quant {

/// "gptaq" with the options of gptq and `share` (0..1]: how much of the drift is corrected. All of it would fit the
/// calibration tokens best; less fits other text better.
Result<std::unique_ptr<pass::Pass>> make_gptaq(const nlohmann::json& options);

}  // namespace autoglm::quant
