#pragma once
/// What kind of text a document is, as far as its characters tell.
#include <string_view>

namespace autoglm::eval {

/// "code": many brackets and operators, lines shaped as statements are; else by the script of most of its words: "zh"
/// (Han), "ja" (Han and Kana), "ko", "latin", "cyrillic"; "other". Languages that share a script are not told apart.
std::string_view language_of(std::string_view text);

}  // namespace autoglm::eval
