#pragma once
/// "unknown method 'gtpq'; did you mean 'gptq'? Known: gptq, rtn": help for a mistyped word.
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace autoglm {

/// The known word closest to `word` (Damerau-Levenshtein, case ignored), or "" when none is near enough to be meant.
std::string nearest(std::string_view word, std::span<const std::string> known);

/// One line for an unknown `what` ("method", "option"): quotes the word, the nearest known one, and the whole list.
std::string unknown_word(std::string_view what, std::string_view word, std::span<const std::string> known);

}  // namespace autoglm
