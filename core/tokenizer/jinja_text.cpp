#include "core/tokenizer/jinja_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace autoglm::tokenizer::jinja::text {
namespace {

bool is_printable(int32_t c) {
  if (c == ' ') return true;
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS: return false;
    default: return true;
  }
}

bool is_letter(int32_t c) {
  if (c < 0) return false;
  const auto category = utf8proc_category(c);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool is_upper(int32_t c) { return c >= 0 && utf8proc_category(c) == UTF8PROC_CATEGORY_LU; }
bool is_lower(int32_t c) { return c >= 0 && utf8proc_category(c) == UTF8PROC_CATEGORY_LL; }
bool is_title(int32_t c) { return c >= 0 && utf8proc_category(c) == UTF8PROC_CATEGORY_LT; }

/// `s` with every code point replaced by map(code point, bytes before it).
template <typename Map>
std::string transform(std::string_view s, Map map) {
  std::string out;
  out.reserve(s.size());
  for (size_t at = 0; at < s.size();) {
    const CodePoint c = decode(s, at);
    if (c.value < 0) {
      out.append(s.substr(at, c.size));
    } else {
      map(out, c.value, at);
    }
    at += c.size;
  }
  return out;
}

void append_upper(std::string& out, int32_t c) {
  if (c == 0xDF) {
    out += "SS";  // the one common letter whose upper case is two
  } else {
    append_utf8(out, static_cast<uint32_t>(utf8proc_toupper(c)));
  }
}

void append_title(std::string& out, int32_t c) {
  if (c == 0xDF) {
    out += "Ss";
  } else {
    append_utf8(out, static_cast<uint32_t>(utf8proc_totitle(c)));
  }
}

void append_lower(std::string& out, int32_t c) { append_utf8(out, static_cast<uint32_t>(utf8proc_tolower(c))); }

bool contains(std::string_view chars, std::string_view character) {
  for (size_t at = 0; at < chars.size();) {
    const size_t size = decode(chars, at).size;
    if (chars.substr(at, size) == character) return true;
    at += size;
  }
  return false;
}

/// The byte at which the last code point of `s` starts.
size_t last_start(std::string_view s) {
  for (size_t back = 1; back <= 4 && back <= s.size(); ++back) {
    const size_t at = s.size() - back;
    if ((static_cast<unsigned char>(s[at]) & 0xC0) == 0x80) continue;
    if (decode(s, at).size == back) return at;
    break;
  }
  return s.size() - 1;
}

}  // namespace

CodePoint decode(std::string_view s, size_t at) {
  const auto first = static_cast<unsigned char>(s[at]);
  if (first < 0x80) return {first, 1};
  utf8proc_int32_t value = -1;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(s.data() + at);
  const auto used = utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(s.size() - at), &value);
  if (used <= 0) return {-1, 1};
  return {value, static_cast<size_t>(used)};
}

void append_utf8(std::string& out, uint32_t code_point) {
  std::array<utf8proc_uint8_t, 4> bytes{};
  const auto size = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes.data());
  out.append(reinterpret_cast<const char*>(bytes.data()), static_cast<size_t>(size));
}

size_t length(std::string_view s) {
  size_t n = 0;
  for (size_t at = 0; at < s.size(); ++n) at += decode(s, at).size;
  return n;
}

std::vector<std::string_view> characters(std::string_view s) {
  std::vector<std::string_view> out;
  for (size_t at = 0; at < s.size();) {
    const size_t size = decode(s, at).size;
    out.push_back(s.substr(at, size));
    at += size;
  }
  return out;
}

bool is_space(int32_t c) {
  return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_ascii_digit(char c) { return c >= '0' && c <= '9'; }

std::string_view strip(std::string_view s, const std::string_view* chars, bool left, bool right) {
  const auto strips = [&](size_t at, size_t size) {
    return chars != nullptr ? contains(*chars, s.substr(at, size)) : is_space(decode(s, at).value);
  };
  while (left && !s.empty()) {
    const size_t size = decode(s, 0).size;
    if (!strips(0, size)) break;
    s.remove_prefix(size);
  }
  while (right && !s.empty()) {
    const size_t at = last_start(s);
    if (!strips(at, s.size() - at)) break;
    s = s.substr(0, at);
  }
  return s;
}

std::string upper(std::string_view s) {
  return transform(s, [](std::string& out, int32_t c, size_t) { append_upper(out, c); });
}

std::string lower(std::string_view s) {
  return transform(s, [](std::string& out, int32_t c, size_t) { append_lower(out, c); });
}

std::string capitalize(std::string_view s) {
  return transform(
      s, [](std::string& out, int32_t c, size_t at) { at == 0 ? append_title(out, c) : append_lower(out, c); });
}

std::string title(std::string_view s) {
  bool in_word = false;
  return transform(s, [&](std::string& out, int32_t c, size_t) {
    in_word ? append_lower(out, c) : append_title(out, c);
    in_word = is_upper(c) || is_lower(c) || is_title(c);
  });
}

bool is_all(std::string_view s, std::string_view property) {
  const bool cased = property == "isupper" || property == "islower";
  bool any = false;
  for (size_t at = 0; at < s.size();) {
    const CodePoint c = decode(s, at);
    at += c.size;
    const bool digit = c.value >= 0 && utf8proc_category(c.value) == UTF8PROC_CATEGORY_ND;
    bool holds = false;
    if (cased) {
      // Characters without case do not matter, one of the wrong case does.
      if (is_title(c.value) || (property == "isupper" ? is_lower(c.value) : is_upper(c.value))) return false;
      any = any || (property == "isupper" ? is_upper(c.value) : is_lower(c.value));
      continue;
    }
    if (property == "isalpha") holds = is_letter(c.value);
    if (property == "isdigit") holds = digit;
    if (property == "isalnum") holds = digit || is_letter(c.value);
    if (property == "isspace") holds = is_space(c.value);
    if (!holds) return false;
    any = true;
  }
  return any;
}

std::vector<std::string_view> split_lines(std::string_view s, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t start = 0;
  for (size_t at = 0; at < s.size();) {
    const CodePoint c = decode(s, at);
    const int32_t v = c.value;
    const bool breaks = (v >= 10 && v <= 13) || (v >= 28 && v <= 30) || v == 0x85 || v == 0x2028 || v == 0x2029;
    const size_t end = at;
    at += c.size;
    if (!breaks) continue;
    if (v == '\r' && at < s.size() && s[at] == '\n') ++at;
    lines.push_back(s.substr(start, (keep_ends ? at : end) - start));
    start = at;
  }
  if (start < s.size()) lines.push_back(s.substr(start));
  return lines;
}

std::string replace(std::string_view s, std::string_view from, std::string_view to, int64_t count) {
  std::string out;
  if (from.empty()) {  // Python puts `to` before every character and at the end
    for (const std::string_view character : characters(s)) {
      if (count != 0) out += to;
      if (count > 0) --count;
      out += character;
    }
    return count != 0 ? out += to : out;
  }
  for (; count != 0; --count) {
    const size_t at = s.find(from);
    if (at == std::string_view::npos) break;
    out += s.substr(0, at);
    out += to;
    s.remove_prefix(at + from.size());
  }
  return out += s;
}

std::string repr(std::string_view s) {
  const char quote = s.find('\'') != std::string_view::npos && s.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  char buffer[16];
  for (size_t at = 0; at < s.size();) {
    const CodePoint c = decode(s, at);
    const std::string_view bytes = s.substr(at, c.size);
    at += c.size;
    if (c.value < 0 || (c.value >= 0x80 && is_printable(c.value))) {
      out += bytes;
    } else if (c.value == quote || c.value == '\\') {
      out += '\\';
      out += bytes;
    } else if (c.value == '\n') {
      out += "\\n";
    } else if (c.value == '\r') {
      out += "\\r";
    } else if (c.value == '\t') {
      out += "\\t";
    } else if (c.value >= 0x20 && c.value < 0x7F) {
      out += static_cast<char>(c.value);
    } else {
      const char* format = c.value < 0x100 ? "\\x%02x" : c.value < 0x10000 ? "\\u%04x" : "\\U%08x";
      std::snprintf(buffer, sizeof(buffer), format, static_cast<unsigned>(c.value));
      out += buffer;
    }
  }
  return out += quote;
}

std::string repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  // Shortest digits that read back as the same number, laid out as float.__repr__ does: an exponent from 1e16 on and
  // below 1e-4.
  std::array<char, 40> buffer{};
  const auto end =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific).ptr;
  std::string scientific(buffer.data(), end);
  const size_t e = scientific.find('e');
  const int exponent = std::atoi(scientific.c_str() + e + 1);
  if (exponent < -4 || exponent >= 16) return scientific;
  const auto fixed = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed).ptr;
  std::string out(buffer.data(), fixed);
  if (out.find('.') == std::string::npos) out += ".0";
  return out;
}

std::string escape_html(std::string_view s) {
  std::string out;
  for (const char c : s) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&#34;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
  return out;
}

}  // namespace autoglm::tokenizer::jinja::text
