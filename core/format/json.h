#pragma once
/// JSON from untrusted files.
#include <nlohmann/json.hpp>
#include <string_view>

#include "core/base/status.h"

namespace autoglm::format {

/// kBadInput when `text` is no JSON, nests deeper than 100 levels, or an object has a member twice (the usual parser
/// keeps the last one silently). The message names the byte, or the member.
Status check_json(std::string_view text);

/// Checks and parses. `Json` is nlohmann::json (look-up by name in logarithmic time) or nlohmann::ordered_json (keeps
/// the order of members, look-up in linear time: not for objects with thousands of members).
template <typename Json = nlohmann::ordered_json>
Result<Json> parse_json(std::string_view text) {
  AUTOGLM_RETURN_IF_ERROR(check_json(text));
  return Json::parse(text, nullptr, /*allow_exceptions=*/false);
}

}  // namespace autoglm::format
