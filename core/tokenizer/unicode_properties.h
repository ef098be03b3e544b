#pragma once
/// Unicode properties as character-class items of PCRE2, extended to Unicode 16.
#include <string>
#include <string_view>

#include "core/base/status.h"

namespace autoglm::tokenizer {

/// The items to write between [ and ] for \p{name}: general categories (short or long names), POSIX names, scripts and
/// binary properties, in any case, with or without spaces, '_' and '-'. kBadInput when no such property is known.
Result<std::string> property_items(std::string_view name);

/// Items for \s, \w and \d.
std::string white_space_items();
std::string word_items();
std::string digit_items();

}  // namespace autoglm::tokenizer
