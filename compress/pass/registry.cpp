#include "compress/pass/registry.h"

#include <algorithm>

#include "core/base/suggest.h"

namespace autoglm::pass {

std::vector<std::string> Registry::names() const {
  std::vector<std::string> names;
  for (const auto& [name, factory] : factories_) names.push_back(name);
  return names;
}

Result<std::unique_ptr<Pass>> Registry::make(std::string_view name, const nlohmann::json& options) const {
  const auto found = factories_.find(std::string(name));
  if (found == factories_.end()) return invalid_argument(unknown_word("method", name, names()));
  return found->second(options);
}

Status check_options(std::string_view method, const nlohmann::json& options, const std::vector<std::string>& known) {
  if (options.is_null()) return ok_status();
  if (!options.is_object()) return invalid_argument(fmt::format("method '{}': its options must be an object", method));
  for (const auto& [name, value] : options.items()) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return invalid_argument(fmt::format("method '{}': {}", method, unknown_word("option", name, known)));
    }
  }
  return ok_status();
}

}  // namespace autoglm::pass
