#define PCRE2_CODE_UNIT_WIDTH 8
#include "core/format/target_match.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <memory>
#include <unordered_map>

#include "core/base/log.h"
#include "core/format/display.h"

namespace autoglm::format {
namespace {

constexpr std::string_view kRegexPrefix = "re:";
constexpr size_t kMaxPatternBytes = 4096;
constexpr uint32_t kMatchLimit = 200'000;  // steps; a name takes some hundreds
constexpr uint32_t kHeapLimitKib = 1024;
constexpr size_t kMaxCachedPatterns = 512;

struct Pattern {
  std::shared_ptr<pcre2_code> code;  // null: does not compile
  std::string error;
};

Pattern compile(std::string_view text) {
  if (text.size() > kMaxPatternBytes) return {nullptr, fmt::format("longer than {} bytes", kMaxPatternBytes)};
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), PCRE2_ANCHORED | PCRE2_UTF,
                                   &error, &offset, nullptr);
  if (code != nullptr) return {std::shared_ptr<pcre2_code>(code, pcre2_code_free), ""};
  char message[128] = {};
  pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(message), sizeof message);
  return {nullptr, fmt::format("{} at its byte {}", message, offset)};
}

/// Compiled once per thread: a config with a hundred targets is asked about tens of thousands of modules.
const Pattern& compiled(std::string_view text) {
  thread_local std::unordered_map<std::string, Pattern> cache;
  const auto found = cache.find(std::string(text));
  if (found != cache.end()) return found->second;
  if (cache.size() >= kMaxCachedPatterns) cache.clear();
  return cache.emplace(text, compile(text)).first->second;
}

bool matches(const Pattern& pattern, std::string_view text, std::string_view name) {
  if (pattern.code == nullptr) return false;
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> data(pcre2_match_data_create(1, nullptr),
                                                                            pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, void (*)(pcre2_match_context*)> context(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  if (data == nullptr || context == nullptr) return false;
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  const int result = pcre2_match(pattern.code.get(), reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0, 0,
                                 data.get(), context.get());
  if (result < 0 && result != PCRE2_ERROR_NOMATCH) {
    warn(fmt::format("quantization_config: the regex {} gives up on module {} and counts as not matching",
                     display(text), display(name)));
  }
  return result >= 0;  // 0: it matched, only its groups had no room
}

}  // namespace

TargetMatch match_target(std::string_view target, std::string_view name, std::string_view type) {
  if (target.starts_with(kRegexPrefix)) {
    const std::string_view text = target.substr(kRegexPrefix.size());
    return matches(compiled(text), text, name) ? TargetMatch::kRegex : TargetMatch::kNone;
  }
  if (target == name) return TargetMatch::kName;
  return target == type || target == "Module" ? TargetMatch::kClass : TargetMatch::kNone;
}

Status check_target(std::string_view target) {
  if (!target.starts_with(kRegexPrefix)) return ok_status();
  const Pattern& pattern = compiled(target.substr(kRegexPrefix.size()));
  if (pattern.code != nullptr) return ok_status();
  return bad_input(fmt::format("the regex {} is invalid: {}", display(target), pattern.error));
}

}  // namespace autoglm::format
