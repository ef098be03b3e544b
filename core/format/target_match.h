#pragma once
/// compressed-tensors' rule for `targets` and `ignore` (utils/match.py): a string is the name of a module, the class of
/// a module, or "re:" and a Python regular expression that must match from the name's start (re.match).
#include <string>
#include <string_view>

#include "core/base/status.h"

namespace autoglm::format {

/// How closely a target fits a module; the closest one decides. Order as compressed-tensors has it.
enum class TargetMatch { kNone, kClass, kRegex, kName };

/// `type` is the module's class, "Linear" or "Embedding"; every class also goes by "Module". A regex that is invalid,
/// or that gives up on this name because it would take too long, does not match (and is warned about).
TargetMatch match_target(std::string_view target, std::string_view name, std::string_view type);

/// kBadInput when `target` is a regex that does not compile. Regexes are bounded in length and work, files may be
/// hostile.
Status check_target(std::string_view target);

}  // namespace autoglm::format
