#include "core/tokenizer/jinja_numbers.h"

#include <charconv>
#include <cmath>
#include <cstdlib>

#include "core/tokenizer/jinja_text.h"
#include "core/tokenizer/jinja_value.h"

namespace autoglm::tokenizer::jinja {

std::optional<int64_t> parse_integer(std::string_view s, int base) {
  s = text::strip(s);
  std::string digits = s.starts_with('-') ? "-" : "";
  if (s.starts_with('-') || s.starts_with('+')) s.remove_prefix(1);
  const char prefix = base == 16 ? 'x' : base == 8 ? 'o' : base == 2 ? 'b' : '\0';
  if (prefix != '\0' && s.size() > 2 && s[0] == '0' && (s[1] | 0x20) == prefix) s.remove_prefix(2);
  for (size_t i = 0; i < s.size(); ++i) {
    const bool between = i > 0 && i + 1 < s.size() && s[i - 1] != '_';
    if (s[i] != '_' || !between) digits += s[i];
  }
  if (s.empty() || s[0] == '-') return std::nullopt;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error == std::errc::result_out_of_range) throw Error("whole numbers beyond 64 bits are not supported");
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

std::optional<double> parse_float(std::string_view s) {
  s = text::strip(s);
  std::string digits(s.starts_with('+') ? s.substr(1) : s);
  for (size_t i = 1; i + 1 < digits.size(); ++i) {
    if (digits[i] == '_' && text::is_ascii_digit(digits[i - 1]) && text::is_ascii_digit(digits[i + 1]))
      digits.erase(i, 1);
  }
  if (digits.find_first_of("+(_") == 0 || digits.find('(') != std::string::npos) return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (end != digits.data() + digits.size() || digits.empty()) return std::nullopt;
  if (error == std::errc::result_out_of_range) return std::strtod(digits.c_str(), nullptr);  // 0 or infinite
  if (error != std::errc()) return std::nullopt;
  return value;
}

std::optional<int64_t> truncate(double v) {
  if (!std::isfinite(v)) return std::nullopt;
  if (std::abs(v) >= 9.2e18) throw Error("whole numbers beyond 64 bits are not supported");
  return static_cast<int64_t>(v);
}

double round_to(double v, int precision) {
  if (!std::isfinite(v)) return v;
  if (precision < 0) {
    const double scale = std::pow(10.0, -precision);
    return std::nearbyint(v / scale) * scale;
  }
  char buffer[800];
  const auto printed = std::to_chars(buffer, buffer + sizeof(buffer), v, std::chars_format::fixed, precision);
  if (printed.ec != std::errc()) return v;
  double out = v;
  std::from_chars(buffer, printed.ptr, out);
  return out;
}

}  // namespace autoglm::tokenizer::jinja
