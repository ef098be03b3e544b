#include "compress/pass/registry.h"

#include <algorithm>
#include <set>

#include "core/base/suggest.h"

namespace autoglm::pass {

std::vector<std::string> Registry::names() const {
  std::vector<std::string> names;
  for (const auto& [name, factory] : factories_) names.push_back(name);
  return names;
}

std::vector<std::string> Registry::all_names() const {
  std::set<std::string> all;
  for (const auto& [name, factory] : factories_) all.insert(name);
  for (const auto& [name, factory] : smoothers_) all.insert(name);
  return {all.begin(), all.end()};
}

Result<MethodWord> Registry::parse(std::string_view word) const {
  MethodWord out;
  if (word.empty()) return out;
  for (size_t start = 0; start <= word.size();) {
    const size_t end = std::min(word.find('+', start), word.size());
    const std::string name(word.substr(start, end - start));
    start = end + 1;
    const bool smooths = smoothers_.contains(name);
    if (!smooths && !knows(name)) return invalid_argument(unknown_word("method", name, all_names()));
    std::string& place = smooths ? out.smoother : out.pass;
    if (!place.empty()) {
      return invalid_argument(fmt::format("method '{}': '{}' and '{}' both {}; give one of them", word, place, name,
                                          smooths ? "choose scales to fold" : "round"));
    }
    place = name;
  }
  if (out.pass.empty()) out.pass = knows(out.smoother) ? out.smoother : "rtn";
  return out;
}

Status Registry::check(std::string_view name, const nlohmann::json& options) const {
  const auto smoother = smoothers_.find(std::string(name));
  if (smoother != smoothers_.end()) AUTOGLM_RETURN_IF_ERROR(smoother->second(options).status());
  if (knows(name)) return make(name, options).status();
  return smoother != smoothers_.end() ? ok_status() : invalid_argument(unknown_word("method", name, all_names()));
}

Result<std::unique_ptr<Smoother>> Registry::make_smoother(std::string_view name, const nlohmann::json& options) const {
  const auto found = smoothers_.find(std::string(name));
  if (found == smoothers_.end()) return invalid_argument(unknown_word("method", name, all_names()));
  return found->second(options);
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
