#pragma once
/// Round to nearest: every weight goes to the closest point of its group's grid. Needs no calibration.
#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "compress/pass/pass.h"
#include "core/base/status.h"

namespace autoglm::quant {

/// Rounds one target to nearest. kBadInput: a weight is NaN or infinite.
Status round_to_nearest(pass::Target& target, CancelToken& cancel);

/// "rtn"; has no options.
Result<std::unique_ptr<pass::Pass>> make_rtn(const nlohmann::json& options);

}  // namespace autoglm::quant
