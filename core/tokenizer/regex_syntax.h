#pragma once
/// Translates regular expressions from Oniguruma's Ruby syntax, which tokenizer.json uses, to PCRE2.
///
/// What differs, and is rewritten: \s, \w, \b, \h, \v and properties (PCRE2's \s has U+180E, its \w lacks marks, its
/// \p{Han} means script extensions), characters that newer Unicode versions added, sets within sets and intersections
/// ([a[bc]], [a&&b]), {n,m}+ (possessive in PCRE2 only), {n}? (optional in Ruby), {,n}, and the option letter m.
#include <string>
#include <string_view>

#include "core/base/status.h"

namespace autoglm::tokenizer {

/// The PCRE2 pattern (for PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE) that matches what `pattern` does. kBadInput names a
/// construct that is not supported, or a property that is not known.
Result<std::string> translate_regex(std::string_view pattern);

}  // namespace autoglm::tokenizer
