#pragma once
/// Shares as people write them.
#include <string_view>

#include "core/base/status.h"

namespace autoglm {

/// "3%", "3 %", "0.03" as a share in [0, 1]. kInvalidArgument otherwise; a bare number of 1 or more is taken for a
/// forgotten percent sign and refused.
Result<double> parse_share(std::string_view text);

}  // namespace autoglm
