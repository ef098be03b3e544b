#pragma once
/// Python's conversions between text and numbers.
#include <cstdint>
#include <optional>
#include <string_view>

namespace autoglm::tokenizer::jinja {

/// int(text, base): sign, the base's prefix, single underscores between digits, white space around; nothing when the
/// text is no such number. Fails beyond 64 bits.
std::optional<int64_t> parse_integer(std::string_view s, int base);

/// float(text), likewise; too large a number is infinite.
std::optional<double> parse_float(std::string_view s);

/// int(v); nothing for NaN and the infinities. Fails beyond 64 bits.
std::optional<int64_t> truncate(double v);

/// round(v, precision): to the nearest, halves of the exact binary value to even.
double round_to(double v, int precision);

}  // namespace autoglm::tokenizer::jinja
