#pragma once
/// UTF-8 as the tokenizers need it: validity, replacement as Python's errors="replace" does, single code points.
#include <cstddef>
#include <string>
#include <string_view>

namespace autoglm::tokenizer {

enum class Utf8Kind {
  kValid,      ///< one whole character
  kInvalid,    ///< bytes that begin no character; they become one U+FFFD
  kTruncated,  ///< the beginning of a character at the very end of the text
};

/// The character, or the maximal ill-formed part (Unicode 15, section 3.9, table 3-7), that starts at a byte.
struct Utf8Step {
  size_t size;
  Utf8Kind kind;
  char32_t value;  ///< of a valid character
};

/// The step at byte `at < text.size()`.
Utf8Step utf8_step(std::string_view text, size_t at);

bool is_valid_utf8(std::string_view text);

/// Every maximal ill-formed part becomes one U+FFFD, a truncated character at the end included.
std::string replace_invalid_utf8(std::string_view text);

/// How many bytes at the end of `text` begin a character whose other bytes may still come: 0 to 3.
size_t truncated_utf8_tail(std::string_view text);

void append_utf8(std::string& out, char32_t code_point);

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

}  // namespace autoglm::tokenizer
