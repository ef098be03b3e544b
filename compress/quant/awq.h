#pragma once
/// AWQ: weights that multiply large activations are made larger before they are rounded, and ranges are clipped where
/// that costs the output least. J. Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and
/// Acceleration", 2024, arXiv:2306.00978.
///
/// Scales (section 3.2, equations 4 and 5): s = mean|x|^α by channel, α searched over a grid by the error of the
/// rounded outputs. Folded into norms, values and the up halves of MLPs.
/// Clipping (section 5.1 and the authors' code): for each group of a row the narrower range, if any, with the least
/// output error on sample inputs; a row keeps its ranges of round-to-nearest where those give it less error.
#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "compress/pass/pass.h"
#include "compress/pass/smoother.h"
#include "core/base/status.h"

namespace autoglm::quant {

/// The smoother "awq"; has no options.
Result<std::unique_ptr<pass::Smoother>> make_awq_scales(const nlohmann::json& options);

/// The pass "awq": clips, then rounds to nearest. Has no options.
Result<std::unique_ptr<pass::Pass>> make_awq(const nlohmann::json& options);

}  // namespace autoglm::quant
