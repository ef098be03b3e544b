#pragma once
/// Regular expressions of tokenizer files, matched by PCRE2 as Oniguruma (the engine of the reference) would.
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/tokenizer/function_ref.h"

namespace autoglm::tokenizer {

struct Match {
  size_t begin = 0;
  size_t end = 0;
};

/// What a search needs besides the pattern: match data and a stack that grows on demand. One per thread, reusable
/// between patterns.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(RegexScratch&&) noexcept;
  RegexScratch& operator=(RegexScratch&&) noexcept;

 private:
  friend class Regex;
  struct State;
  std::unique_ptr<State> state_;
};

/// A compiled pattern. Immutable; may be shared between threads.
class Regex {
 public:
  /// `pattern` is in Oniguruma's Ruby syntax, as tokenizer.json writes it. kBadInput says what is wrong with it.
  static Result<Regex> compile(std::string_view pattern);

  /// Matches `text` itself.
  static Result<Regex> literal(std::string_view text);

  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  /// The first match that starts at byte `from` or later. `subject` is valid UTF-8, `from` the start of a character.
  /// A search that exceeds the matcher's limits (exponential backtracking) finds nothing and is reported by warn().
  bool find(std::string_view subject, size_t from, RegexScratch& scratch, Match& match) const;

  /// Calls `visit` for every match from left to right. An empty match right after the previous match is passed over.
  void for_each_match(std::string_view subject, RegexScratch& scratch, FunctionRef<void(Match)> visit) const;

 private:
  struct Code;
  explicit Regex(std::unique_ptr<Code> code);
  static Result<Regex> compile_pcre2(const std::string& pattern);

  std::unique_ptr<Code> code_;
};

}  // namespace autoglm::tokenizer
