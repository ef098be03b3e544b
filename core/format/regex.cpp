#define PCRE2_CODE_UNIT_WIDTH 8
#include "core/format/regex.h"

#include <fmt/format.h>
#include <pcre2.h>

#include "core/format/display.h"

namespace autoglm::format {
namespace {

constexpr size_t kMaxPatternBytes = 4096;
constexpr uint32_t kMatchLimit = 200'000;  // steps; a name takes some hundreds
constexpr uint32_t kHeapLimitKib = 1024;

Status invalid(std::string_view pattern, std::string_view why) {
  return invalid_argument(fmt::format("the regex {} is invalid: {}", display(pattern), why));
}

}  // namespace

Result<Regex> Regex::compile(std::string_view pattern, bool anchored) {
  if (pattern.size() > kMaxPatternBytes) return invalid(pattern, fmt::format("longer than {} bytes", kMaxPatternBytes));
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | (anchored ? PCRE2_ANCHORED : 0U), &error, &offset, nullptr);
  if (code == nullptr) {
    char message[128] = {};
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(message), sizeof message);
    return invalid(pattern, fmt::format("{} at its byte {}", message, offset));
  }
  Regex out;
  out.code_ = std::shared_ptr<void>(code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
  return out;
}

Regex::Match Regex::search(std::string_view text) const {
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> data(pcre2_match_data_create(1, nullptr),
                                                                            pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, void (*)(pcre2_match_context*)> context(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  if (data == nullptr || context == nullptr) return Match::kGivesUp;
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  const int result = pcre2_match(static_cast<const pcre2_code*>(code_.get()), reinterpret_cast<PCRE2_SPTR>(text.data()),
                                 text.size(), 0, 0, data.get(), context.get());
  if (result >= 0) return Match::kYes;  // 0: it matched, only its groups had no room
  return result == PCRE2_ERROR_NOMATCH ? Match::kNo : Match::kGivesUp;
}

}  // namespace autoglm::format
