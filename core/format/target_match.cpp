#include "core/format/target_match.h"

#include <fmt/format.h>

#include <unordered_map>

#include "core/base/log.h"
#include "core/format/display.h"
#include "core/format/regex.h"

namespace autoglm::format {
namespace {

constexpr std::string_view kRegexPrefix = "re:";
constexpr size_t kMaxCachedPatterns = 512;

/// Compiled once per thread: a config with a hundred targets is asked about tens of thousands of modules.
const Result<Regex>& compiled(std::string_view pattern) {
  thread_local std::unordered_map<std::string, Result<Regex>> cache;
  const auto found = cache.find(std::string(pattern));
  if (found != cache.end()) return found->second;
  if (cache.size() >= kMaxCachedPatterns) cache.clear();
  return cache.emplace(pattern, Regex::compile(pattern, /*anchored=*/true)).first->second;
}

bool matches(std::string_view pattern, std::string_view name) {
  const Result<Regex>& regex = compiled(pattern);
  if (!regex.ok()) return false;
  const Regex::Match result = regex->search(name);
  if (result == Regex::Match::kGivesUp) {
    warn(fmt::format("quantization_config: the regex {} gives up on module {} and counts as not matching",
                     display(pattern), display(name)));
  }
  return result == Regex::Match::kYes;
}

}  // namespace

TargetMatch match_target(std::string_view target, std::string_view name, std::string_view type) {
  if (target.starts_with(kRegexPrefix)) {
    return matches(target.substr(kRegexPrefix.size()), name) ? TargetMatch::kRegex : TargetMatch::kNone;
  }
  if (target == name) return TargetMatch::kName;
  return target == type || target == "Module" ? TargetMatch::kClass : TargetMatch::kNone;
}

Status check_target(std::string_view target) {
  if (!target.starts_with(kRegexPrefix)) return ok_status();
  const Result<Regex>& regex = compiled(target.substr(kRegexPrefix.size()));
  return regex.ok() ? ok_status() : bad_input(regex.status().message());
}

}  // namespace autoglm::format
