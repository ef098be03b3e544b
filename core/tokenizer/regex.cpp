#include "core/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "core/base/log.h"
#include "core/tokenizer/regex_syntax.h"
#include "core/tokenizer/utf8.h"

namespace autoglm::tokenizer {
namespace {

constexpr uint32_t kMinMatchLimit = 10'000'000;  // steps of backtracking; honest patterns need a few per byte
constexpr uint64_t kMatchStepsPerByte = 100;
constexpr uint32_t kHeapLimitKiB = 1 << 20;
constexpr size_t kJitStackStart = 64 << 10;
constexpr size_t kJitStackMax = 64 << 20;

std::string pcre2_message(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

template <typename T, void (*release)(T*)>
struct Deleter {
  void operator()(T* p) const { release(p); }
};
template <typename T, void (*release)(T*)>
using Handle = std::unique_ptr<T, Deleter<T, release>>;

}  // namespace

struct RegexScratch::State {
  Handle<pcre2_match_data, pcre2_match_data_free> data{pcre2_match_data_create(1, nullptr)};
  Handle<pcre2_match_context, pcre2_match_context_free> context{pcre2_match_context_create(nullptr)};
  Handle<pcre2_jit_stack, pcre2_jit_stack_free> jit_stack;
};

RegexScratch::RegexScratch() : state_(std::make_unique<State>()) {
  pcre2_set_heap_limit(state_->context.get(), kHeapLimitKiB);
}
RegexScratch::~RegexScratch() = default;
RegexScratch::RegexScratch(RegexScratch&&) noexcept = default;
RegexScratch& RegexScratch::operator=(RegexScratch&&) noexcept = default;

struct Regex::Code {
  Handle<pcre2_code, pcre2_code_free> pattern;
  std::string source;
};

Regex::Regex(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

Result<Regex> Regex::compile(std::string_view pattern) {
  AUTOGLM_ASSIGN_OR_RETURN(std::string translated, translate_regex(pattern));
  AUTOGLM_ASSIGN_OR_RETURN(Regex regex, compile_pcre2(translated));
  regex.code_->source = pattern;
  return regex;
}

Result<Regex> Regex::literal(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (static_cast<uint8_t>(c) < 0x80 && !std::isalnum(static_cast<unsigned char>(c))) escaped += '\\';
    escaped += c;
  }
  AUTOGLM_ASSIGN_OR_RETURN(Regex regex, compile_pcre2(escaped));
  regex.code_->source = text;
  return regex;
}

Result<Regex> Regex::compile_pcre2(const std::string& pattern) {
  const Handle<pcre2_compile_context, pcre2_compile_context_free> context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto code = std::make_unique<Code>();
  // Ruby's ^ and $ match at every line.
  code->pattern.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                                    context.get()));
  if (!code->pattern)
    return bad_input(fmt::format("the regular expression does not compile: {}", pcre2_message(error)));
  pcre2_jit_compile(code->pattern.get(), PCRE2_JIT_COMPLETE);  // without executable memory pcre2_match interprets
  return Regex(std::move(code));
}

bool Regex::find(std::string_view subject, size_t from, RegexScratch& scratch, Match& match) const {
  RegexScratch::State& state = *scratch.state_;
  const auto* text = reinterpret_cast<PCRE2_SPTR>(subject.data());
  const uint64_t limit = std::max<uint64_t>(kMinMatchLimit, subject.size() * kMatchStepsPerByte);
  pcre2_set_match_limit(state.context.get(),
                        static_cast<uint32_t>(std::min<uint64_t>(limit, std::numeric_limits<uint32_t>::max())));
  const auto run = [&](uint32_t options) {
    return pcre2_match(code_->pattern.get(), text, subject.size(), from, PCRE2_NO_UTF_CHECK | options, state.data.get(),
                       state.context.get());
  };
  int rc = run(0);
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !state.jit_stack) {
    state.jit_stack.reset(pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr));
    pcre2_jit_stack_assign(state.context.get(), nullptr, state.jit_stack.get());
    rc = run(0);
  }
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = run(PCRE2_NO_JIT);
  if (rc < 0) {
    if (rc != PCRE2_ERROR_NOMATCH) {
      warn(fmt::format("the tokenizer's regular expression {:.80} gave up on a text: {}", code_->source,
                       pcre2_message(rc)));
    }
    return false;
  }
  const PCRE2_SIZE* vector = pcre2_get_ovector_pointer(state.data.get());
  match = {vector[0], std::max(vector[0], vector[1])};  // \K in a lookahead can put the start after the end
  return true;
}

void Regex::for_each_match(std::string_view subject, RegexScratch& scratch, FunctionRef<void(Match)> visit) const {
  size_t last_end = std::string_view::npos;
  Match match;
  for (size_t from = 0; from <= subject.size() && find(subject, from, scratch, match);) {
    if (match.begin == match.end && match.end == last_end) {
      if (from >= subject.size()) break;
      from += utf8_step(subject, from).size;
      continue;
    }
    visit(match);
    from = last_end = match.end;
  }
}

}  // namespace autoglm::tokenizer
