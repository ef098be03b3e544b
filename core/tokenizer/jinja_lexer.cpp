#include "core/tokenizer/jinja_lexer.h"

#include <array>
#include <charconv>

#include "core/tokenizer/jinja_text.h"
#include "core/tokenizer/jinja_value.h"

namespace autoglm::tokenizer::jinja {
namespace {

constexpr std::array<std::string_view, 6> kLongOperators = {"//", "**", "==", "!=", ">=", "<="};
constexpr std::string_view kShortOperators = "+-/*%~[](){}><=.:|,;";

bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || static_cast<unsigned char>(c) >= 0x80;
}

bool is_name_part(char c) { return is_name_start(c) || text::is_ascii_digit(c); }

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/// Line ends become \n and the last one is dropped.
std::string normalize(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) text_until_tag();
    add(TokenKind::kEnd, "end of template");
    return std::move(tokens_);
  }

 private:
  bool starts_with(std::string_view s) const { return rest().substr(0, s.size()) == s; }
  std::string_view rest() const { return std::string_view(source_).substr(at_); }

  void advance(size_t n) {
    for (const size_t end = at_ + n; at_ < end; ++at_) line_ += source_[at_] == '\n';
    line_starting_ = at_ > 0 && source_[at_ - 1] == '\n';
  }

  void skip_space() {
    while (at_ < source_.size()) {
      const text::CodePoint c = text::decode(source_, at_);
      if (!text::is_space(c.value)) break;
      advance(c.size);
    }
  }

  void add(TokenKind kind, std::string_view text, int line = 0) {
    tokens_.push_back({kind, line == 0 ? line_ : line, std::string(text)});
  }

  [[noreturn]] void fail(const std::string& message, int line = 0) const {
    throw Error(message, line == 0 ? line_ : line);
  }

  /// Emits the text before the next tag, stripped as the tag asks, and reads the tag.
  void text_until_tag() {
    size_t tag = at_;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= source_.size()) {
        add(TokenKind::kData, rest());
        advance(source_.size() - at_);
        return;
      }
      const char next = source_[tag + 1];
      if (next == '{' || next == '%' || next == '#') break;
      ++tag;
    }
    const char kind = source_[tag + 1];
    emit_data(tag, kind != '{');
    advance(tag - at_ + 2);
    if (at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+')) advance(1);
    switch (kind) {
      case '#': return comment();
      case '%': return raw() ? void() : inside(TokenKind::kBlockBegin, TokenKind::kBlockEnd, "%}");
      default: return inside(TokenKind::kVariableBegin, TokenKind::kVariableEnd, "}}");
    }
  }

  /// The text up to `tag`, whose sign (`{%-`, `{%+`) says what to strip; `block` for tags that lstrip_blocks covers.
  void emit_data(size_t tag, bool block) {
    std::string_view data = std::string_view(source_).substr(at_, tag - at_);
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    if (sign == '-') {
      data = text::strip(data, nullptr, false, true);
    } else if (sign != '+' && block) {
      const size_t newline = data.rfind('\n');
      const size_t start = newline == std::string_view::npos ? 0 : newline + 1;
      if ((start > 0 || line_starting_) && text::strip(data.substr(start)).empty()) data = data.substr(0, start);
    }
    if (!data.empty()) add(TokenKind::kData, data);
  }

  /// What follows the end of a block or comment tag: `-%}` eats all white space, `%}` one newline, `+%}` nothing.
  bool tag_end(std::string_view end, bool trims) {
    const bool minus = starts_with("-" + std::string(end));
    const bool plus = trims && starts_with("+" + std::string(end));
    if (!minus && !plus && !starts_with(end)) return false;
    advance(end.size() + (minus || plus ? 1 : 0));
    if (minus) {
      skip_space();
    } else if (trims && !plus && starts_with("\n")) {
      advance(1);
    }
    return true;
  }

  void comment() {
    const int line = line_;
    while (at_ < source_.size()) {
      if (tag_end("#}", true)) return;
      advance(1);
    }
    fail("a comment '{#' is never closed", line);
  }

  /// {% raw %} ... {% endraw %}: called after `{%`; false (and nothing read) when the tag is another one.
  bool raw() {
    const size_t start = at_;
    const int line = line_;
    skip_space();
    if (!starts_with("raw")) return rewind(start, line);
    advance(3);
    skip_space();
    if (starts_with("-%}")) {
      advance(3);
      skip_space();
    } else if (starts_with("%}")) {
      advance(2);
    } else {
      return rewind(start, line);
    }
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos; tag = source_.find("{%", tag + 2)) {
      size_t name = tag + 2;
      if (name < source_.size() && (source_[name] == '-' || source_[name] == '+')) ++name;
      while (name < source_.size() && text::is_space(text::decode(source_, name).value)) ++name;
      if (std::string_view(source_).substr(name, 6) != "endraw") continue;
      emit_data(tag, true);
      advance(name + 6 - at_);
      skip_space();
      if (!tag_end("%}", true)) fail("expected '%}' after endraw");
      return true;
    }
    fail("a raw block is never closed", line);
  }

  bool rewind(size_t start, int line) {
    at_ = start;
    line_ = line;
    return false;
  }

  /// The tokens of one {{ ... }} or {% ... %}.
  void inside(TokenKind begin, TokenKind end_kind, std::string_view end) {
    const int line = line_;
    add(begin, end == "}}" ? "{{" : "{%");
    std::string open;  // the closing brackets still due; while there are any, the end of the tag is not looked for
    while (true) {
      if (open.empty()) {
        const int end_line = line_;
        if (tag_end(end, end == "%}")) return add(end_kind, end, end_line);
      }
      if (at_ >= source_.size()) fail("the tag that begins here is never closed", line);
      if (text::is_space(text::decode(source_, at_).value)) {
        skip_space();
      } else {
        token(open);
      }
    }
  }

  void token(std::string& open) {
    const char c = source_[at_];
    if (text::is_ascii_digit(c)) return number();
    if (is_name_start(c)) return name();
    if (c == '"' || c == '\'') return string();
    for (const std::string_view op : kLongOperators) {
      if (starts_with(op)) {
        add(TokenKind::kOperator, op);
        return advance(2);
      }
    }
    if (kShortOperators.find(c) == std::string_view::npos) {
      fail("unexpected character " + text::repr(rest().substr(0, text::decode(source_, at_).size)));
    }
    if (c == '(') open += ')';
    if (c == '[') open += ']';
    if (c == '{') open += '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c) fail(std::string("unexpected '") + c + "'");
      open.pop_back();
    }
    add(TokenKind::kOperator, rest().substr(0, 1));
    advance(1);
  }

  void name() {
    size_t end = at_;
    while (end < source_.size() && is_name_part(source_[end])) ++end;
    add(TokenKind::kName, std::string_view(source_).substr(at_, end - at_));
    advance(end - at_);
  }

  /// Digits from `i` on, with single underscores between them, without the underscores.
  std::string digits(size_t& i) const {
    std::string out;
    while (i < source_.size()) {
      if (text::is_ascii_digit(source_[i])) {
        out += source_[i++];
      } else if (source_[i] == '_' && i + 1 < source_.size() && text::is_ascii_digit(source_[i + 1])) {
        ++i;
      } else {
        break;
      }
    }
    return out;
  }

  void number() {
    const auto at_digit = [&](size_t i) { return i < source_.size() && text::is_ascii_digit(source_[i]); };
    const auto at_any = [&](size_t i, std::string_view any) {
      return i < source_.size() && any.find(source_[i]) != std::string_view::npos;
    };
    if (source_[at_] == '0' && at_any(at_ + 1, "xXoObB")) {
      fail("hexadecimal, octal and binary numbers are not supported");
    }
    size_t i = at_;
    std::string number = digits(i);
    const size_t whole = number.size();
    if (at_ == 0 || source_[at_ - 1] != '.') {  // after a dot it is the index in `list.0.name`
      if (at_any(i, ".") && at_digit(i + 1)) number += "." + digits(++i);
      const size_t exponent = i + (at_any(i + 1, "+-") ? 2 : 1);
      if (at_any(i, "eE") && at_digit(exponent)) {
        number += at_any(i + 1, "-") ? "e-" : "e";
        i = exponent;
        number += digits(i);
      }
    }
    const bool is_float = number.size() > whole;
    if (!is_float && number[0] == '0' && number.find_first_not_of('0') != std::string::npos) {
      fail("a whole number may not begin with 0");
    }
    Token token{is_float ? TokenKind::kFloat : TokenKind::kInteger, line_, number};
    const char* last = number.data() + number.size();
    const std::errc error = is_float ? std::from_chars(number.data(), last, token.number).ec
                                     : std::from_chars(number.data(), last, token.integer).ec;
    if (error != std::errc()) fail("the number " + number.substr(0, 40) + " is out of range");
    tokens_.push_back(std::move(token));
    advance(i - at_);
  }

  void string() {
    const int line = line_;
    const char quote = source_[at_];
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail("a string is never closed", line);
    add(TokenKind::kString, unescape(std::string_view(source_).substr(at_ + 1, end - at_ - 1)));
    advance(end + 1 - at_);
  }

  std::string unescape(std::string_view s) const {
    std::string out;
    for (size_t i = 0; i < s.size(); ++i) {
      if (s[i] != '\\') {
        out += s[i];
        continue;
      }
      const char c = s[++i];  // the scan for the closing quote never ends on a backslash
      switch (c) {
        case '\n': break;
        case '\\':
        case '\'':
        case '"': out += c; break;
        case 'a': out += '\a'; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'n': out += '\n'; break;
        case 'r': out += '\r'; break;
        case 't': out += '\t'; break;
        case 'v': out += '\v'; break;
        case 'x': i += code_point(out, s.substr(i + 1), 2); break;
        case 'u': i += code_point(out, s.substr(i + 1), 4); break;
        case 'U': i += code_point(out, s.substr(i + 1), 8); break;
        case 'N': fail("the escape \\N{...} is not supported");
        default:
          if (c >= '0' && c <= '7') {
            uint32_t value = 0;
            size_t n = 0;
            for (; n < 3 && i + n < s.size() && s[i + n] >= '0' && s[i + n] <= '7'; ++n)
              value = value * 8 + (s[i + n] - '0');
            text::append_utf8(out, value);
            i += n - 1;
          } else {
            out += '\\';
            out += c;
          }
      }
    }
    return out;
  }

  size_t code_point(std::string& out, std::string_view s, size_t digits) const {
    uint32_t value = 0;
    for (size_t i = 0; i < digits; ++i) {
      const int digit = i < s.size() ? hex_digit(s[i]) : -1;
      if (digit < 0) fail("a \\x, \\u or \\U escape needs " + std::to_string(digits) + " hexadecimal digits");
      value = value * 16 + static_cast<uint32_t>(digit);
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) fail("an escape names no Unicode character");
    text::append_utf8(out, value);
    return digits;
  }

  std::string source_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(normalize(source)).run(); }

}  // namespace autoglm::tokenizer::jinja
