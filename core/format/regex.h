#pragma once
/// Regex: a Perl-compatible expression (PCRE2) from a file or a person, bounded in length and in the work of a match.
#include <memory>
#include <string>
#include <string_view>

#include "core/base/status.h"

namespace autoglm::format {

class Regex {
 public:
  enum class Match { kNo, kYes, kGivesUp };  ///< the last: it would take too long

  /// `anchored`: a match starts where the text starts. kInvalidArgument: longer than 4096 bytes, or does not compile
  /// (says why and at which byte).
  static Result<Regex> compile(std::string_view pattern, bool anchored = false);

  /// Thread-safe.
  Match search(std::string_view text) const;

 private:
  std::shared_ptr<void> code_;  ///< pcre2_code, whose header stays out of this one
};

}  // namespace autoglm::format
