#include "core/tokenizer/jinja_format.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>

#include "core/tokenizer/jinja_operators.h"
#include "core/tokenizer/jinja_text.h"

namespace autoglm::tokenizer::jinja {
namespace {

constexpr int64_t kMaxWidth = 10'000;  // of one formatted field

/// One replacement field of either kind of format.
struct Field {
  std::string fill = " ";
  char align = '\0';  // '<', '>', '^', '=' (padding after the sign)
  char sign = '-';
  bool alternate = false, grouped = false;
  int64_t width = 0;
  int64_t precision = -1;
  char type = '\0';
};

/// Digits at `at` of `s` as a number no larger than kMaxWidth.
int64_t read_number(std::string_view s, size_t& at) {
  int64_t value = 0;
  while (at < s.size() && text::is_ascii_digit(s[at])) {
    value = value * 10 + (s[at++] - '0');
    if (value > kMaxWidth) throw Error("a format asks for more than " + std::to_string(kMaxWidth) + " characters");
  }
  return value;
}

std::string pad(const Field& field, const std::string& sign, const std::string& body, char default_align) {
  const char align = field.align != '\0' ? field.align : default_align;
  const auto missing = field.width - static_cast<int64_t>(text::length(sign) + text::length(body));
  const auto filled = [&](int64_t n) {
    std::string out;
    for (int64_t i = 0; i < n; ++i) out += field.fill;
    return out;
  };
  if (missing <= 0) return sign + body;
  if (align == '<') return sign + body + filled(missing);
  if (align == '=') return sign + filled(missing) + body;
  if (align == '^') return filled(missing / 2) + sign + body + filled(missing - missing / 2);
  return filled(missing) + sign + body;
}

std::string sign_of(const Field& field, bool negative) {
  if (negative) return "-";
  return field.sign == '-' ? "" : std::string(1, field.sign);
}

std::string group_thousands(std::string digits) {
  size_t point = std::min(digits.find('.'), digits.size());
  while (point > 3) digits.insert(point -= 3, ",");
  return digits;
}

std::string format_integer(const Field& field, int64_t v) {
  const uint64_t magnitude = v < 0 ? ~static_cast<uint64_t>(v) + 1 : static_cast<uint64_t>(v);
  char buffer[32];
  const char* format = field.type == 'x' ? "%lx" : field.type == 'X' ? "%lX" : field.type == 'o' ? "%lo" : "%lu";
  std::snprintf(buffer, sizeof(buffer), format, static_cast<unsigned long>(magnitude));
  std::string digits = field.grouped ? group_thousands(buffer) : buffer;
  if (field.precision > static_cast<int64_t>(digits.size())) {
    digits.insert(0, static_cast<size_t>(field.precision) - digits.size(), '0');
  }
  std::string sign = sign_of(field, v < 0);
  if (field.alternate && field.type != '\0' && field.type != 'd') sign += std::string("0") + field.type;
  return pad(field, sign, digits, '>');
}

std::string format_float(const Field& field, double v) {
  const std::string conversion =
      std::string("%") + (field.alternate ? "#" : "") + ".*" + (field.type == '%' ? 'f' : field.type);
  const int precision = field.precision < 0 ? 6 : static_cast<int>(field.precision);
  const double magnitude = std::abs(field.type == '%' ? v * 100 : v);
  std::string digits(static_cast<size_t>(precision) + 400, '\0');
  const int size = std::snprintf(digits.data(), digits.size(), conversion.c_str(), precision, magnitude);
  digits.resize(static_cast<size_t>(size));
  if (field.grouped) digits = group_thousands(digits);
  if (field.type == '%') digits += '%';
  return pad(field, sign_of(field, std::signbit(v) && !std::isnan(v)), digits, '>');
}

bool is_float_type(char type) {
  return std::string_view("eEfFgG%").find(type) != std::string_view::npos && type != '\0';
}

[[noreturn]] void fail_type(char type, const Value& v) {
  throw Error("the format '" + (type == '\0' ? "" : std::string(1, type)) + "' does not fit a value of type '" +
              std::string(v.type_name()) + "'");
}

std::string truncated(Budget& budget, const Field& field, const std::string& s) {
  if (field.precision < 0) return s;
  return slice(budget, Value(s), Value(), Value(field.precision), Value()).as_string();
}

/// Reads [[fill]align][sign][#][0][width][,][.precision][type]; `of_text` says that a string is to be formatted.
Field parse_spec(std::string_view spec, bool of_text) {
  Field field;
  size_t at = 0;
  const auto peek = [&] { return at < spec.size() ? spec[at] : '\0'; };
  const auto skip = [&](std::string_view any) {
    return any.find(peek()) != std::string_view::npos && at < spec.size() ? spec[at++] : '\0';
  };
  constexpr std::string_view kAligns = "<>^=";
  const size_t first = text::decode(spec, 0).size;
  if (first < spec.size() && kAligns.find(spec[first]) != std::string_view::npos) {
    field.fill = spec.substr(0, first);
    at = first;
  }
  field.align = skip(kAligns);
  if (const char sign = skip("+- ")) field.sign = sign;
  field.alternate = skip("#") != '\0';
  if (skip("0") != '\0' && field.align == '\0') {
    field.fill = "0";
    field.align = of_text ? '<' : '=';
  }
  field.width = read_number(spec, at);
  field.grouped = skip(",") != '\0';
  if (skip(".") != '\0') {
    if (!text::is_ascii_digit(peek())) throw Error("a format lacks its precision");
    field.precision = read_number(spec, at);
  }
  if (at < spec.size()) field.type = spec[at++];
  if (at != spec.size()) throw Error("invalid format '" + std::string(spec) + "'");
  return field;
}

/// Python's format(v, spec).
std::string format_value(Budget& budget, const Value& v, std::string_view spec) {
  if (spec.empty()) return to_str(budget, v);
  const Field field = parse_spec(spec, v.is_string());
  if (v.is_string() && (field.type == '\0' || field.type == 's')) {
    return pad(field, "", truncated(budget, field, v.as_string()), '<');
  }
  if (v.is_integral() && (field.type == '\0' || std::string_view("dxXo").find(field.type) != std::string_view::npos)) {
    if (field.precision >= 0) throw Error("a whole number cannot be formatted with a precision");
    return format_integer(field, v.as_int());
  }
  if (v.is_number() && is_float_type(field.type)) return format_float(field, v.as_double());
  if (v.is_float() && field.type == '\0' && field.precision < 0) {
    return pad(field, sign_of(field, std::signbit(v.as_double())), text::repr(std::abs(v.as_double())), '>');
  }
  fail_type(field.type, v);
}

/// `name.attribute[key]` of a replacement field.
Value lookup_field(Budget& budget, std::string_view path, const Arguments& arguments, size_t& automatic) {
  const size_t end = std::min(path.find_first_of(".["), path.size());
  const std::string_view head = path.substr(0, end);
  Value value;
  if (head.empty() || text::is_ascii_digit(head[0])) {
    size_t at = 0;
    const size_t index = head.empty() ? automatic++ : static_cast<size_t>(read_number(head, at));
    if (index >= arguments.positional.size()) throw Error("format() has too few arguments");
    value = arguments.positional[index];
  } else {
    const auto found =
        std::find_if(arguments.named.begin(), arguments.named.end(), [&](const auto& a) { return a.first == head; });
    if (found == arguments.named.end()) throw Error("format() has no argument '" + std::string(head) + "'");
    value = found->second;
  }
  for (std::string_view rest = path.substr(end); !rest.empty();) {
    const bool item = rest[0] == '[';
    const size_t stop = item ? rest.find(']') : std::min(rest.find_first_of(".[", 1), rest.size());
    if (stop == std::string_view::npos) throw Error("a format lacks ']'");
    const std::string name(rest.substr(1, stop - 1));
    size_t at = 0;
    const bool number = !name.empty() && std::all_of(name.begin(), name.end(), text::is_ascii_digit);
    value = !item ? get_attribute(budget, value, name)
                  : get_item(budget, value, number ? Value(read_number(name, at)) : Value(name));
    rest.remove_prefix(stop + (item ? 1 : 0));
  }
  return value;
}

/// Reads flags, width, precision and type of a % conversion from `at` on.
Field parse_percent(std::string_view format, size_t& at) {
  Field field;
  for (; at < format.size() && std::string_view("-+ #0").find(format[at]) != std::string_view::npos; ++at) {
    if (format[at] == '-') field.align = '<';
    if (format[at] == '0' && field.align == '\0') field.align = '=';
    if (format[at] == '+' || (format[at] == ' ' && field.sign != '+')) field.sign = format[at];
    if (format[at] == '#') field.alternate = true;
  }
  field.width = read_number(format, at);
  if (at < format.size() && format[at] == '.') field.precision = read_number(format, ++at);
  if (at >= format.size()) throw Error("incomplete format");
  field.type = format[at++];
  if (std::string_view("srcdiuxXoeEfFgG%").find(field.type) == std::string_view::npos) {
    throw Error(std::string("the format '%") + field.type + "' is not supported");
  }
  const bool numeric = field.type != 's' && field.type != 'r' && field.type != 'c';
  if (field.align == '=' && numeric) field.fill = "0";
  if (field.align == '=' && !numeric) field.align = '\0';
  return field;
}

/// The value that a % conversion takes next: of a tuple its next element, of a dict the named one.
class PercentArguments {
 public:
  explicit PercentArguments(const Value& arguments) : arguments_(arguments) {
    const Sequence* s = arguments.sequence();
    tuple_ = s != nullptr && s->kind == SequenceKind::kTuple ? s : nullptr;
  }

  Value next() {
    const size_t available = tuple_ != nullptr ? tuple_->items.size() : 1;
    if (used_ >= available) throw Error("not enough arguments for format string");
    return tuple_ != nullptr ? tuple_->items[used_++] : (++used_, arguments_);
  }

  Value named(std::string_view name) {
    if (arguments_.dict() == nullptr) throw Error("format requires a mapping");
    used_ = 1;
    const Value* found = arguments_.dict()->find(Value(name));
    if (found == nullptr) throw Error("format has no argument '" + std::string(name) + "'");
    return *found;
  }

  void check_all_used() const {
    const bool mapping = arguments_.dict() != nullptr || (tuple_ == nullptr && arguments_.sequence() != nullptr);
    const size_t available = tuple_ != nullptr ? tuple_->items.size() : mapping ? 0 : 1;
    if (used_ < available) throw Error("not all arguments converted during string formatting");
  }

 private:
  const Value& arguments_;
  const Sequence* tuple_;
  size_t used_ = 0;
};

std::string format_percent_field(Budget& budget, Field& field, const Value& v) {
  switch (field.type) {
    case 's': return pad(field, "", truncated(budget, field, to_str(budget, v)), '>');
    case 'r': return pad(field, "", truncated(budget, field, to_repr(budget, v)), '>');
    case 'c': {
      std::string character;
      if (v.is_string() && text::length(v.as_string()) == 1) character = v.as_string();
      if (v.is_integral() && v.as_int() >= 0 && v.as_int() < 0xD800)
        text::append_utf8(character, static_cast<uint32_t>(v.as_int()));
      if (character.empty()) fail_type('c', v);
      return pad(field, "", character, '>');
    }
    default: break;
  }
  if (v.is_undefined()) throw Error(v.undefined_message());
  if (!v.is_number()) fail_type(field.type, v);
  if (is_float_type(field.type)) return format_float(field, v.as_double());
  if (field.type == 'i' || field.type == 'u') field.type = 'd';
  if (field.type != 'd' && !v.is_integral()) fail_type(field.type, v);
  if (v.is_float() && !(std::abs(v.as_double()) < 9.2e18)) fail_type(field.type, v);
  return format_integer(field, v.is_float() ? static_cast<int64_t>(v.as_double()) : v.as_int());
}

}  // namespace

std::string format_percent(Budget& budget, std::string_view format, const Value& arguments) {
  std::string out;
  PercentArguments values(arguments);
  for (size_t at = 0; at < format.size();) {
    if (format[at] != '%') {
      out += format[at++];
      continue;
    }
    ++at;
    std::optional<Value> named;
    if (at < format.size() && format[at] == '(') {
      const size_t end = format.find(')', at);
      if (end == std::string_view::npos) throw Error("incomplete format key");
      named = values.named(format.substr(at + 1, end - at - 1));
      at = end + 1;
    }
    Field field = parse_percent(format, at);
    if (field.type == '%') {
      out += '%';
    } else {
      budget.append(out, format_percent_field(budget, field, named ? *named : values.next()));
    }
  }
  values.check_all_used();
  return out;
}

std::string format_braces(Budget& budget, std::string_view format, const Arguments& arguments) {
  std::string out;
  size_t automatic = 0;
  for (size_t at = 0; at < format.size(); ++at) {
    const char c = format[at];
    const bool doubled = at + 1 < format.size() && format[at + 1] == c;
    if ((c == '{' || c == '}') && doubled) {
      out += c;
      ++at;
    } else if (c == '}') {
      throw Error("single '}' in a format");
    } else if (c != '{') {
      out += c;
    } else {
      const size_t end = format.find('}', at);
      if (end == std::string_view::npos) throw Error("single '{' in a format");
      const std::string_view field = format.substr(at + 1, end - at - 1);
      if (field.find('{') != std::string_view::npos) throw Error("a field inside a field of a format is not supported");
      const size_t colon = std::min(field.find(':'), field.size());
      const size_t bang = std::min(field.substr(0, colon).find('!'), colon);
      Value value = lookup_field(budget, field.substr(0, bang), arguments, automatic);
      const std::string_view conversion = field.substr(bang, colon - bang);
      if (conversion == "!r")
        value = Value(to_repr(budget, value));
      else if (conversion == "!s")
        value = Value(to_str(budget, value));
      else if (!conversion.empty())
        throw Error("the conversion '" + std::string(conversion) + "' is not supported");
      budget.append(out,
                    format_value(budget, value, colon < field.size() ? field.substr(colon + 1) : std::string_view()));
      at = end;
    }
  }
  return out;
}

}  // namespace autoglm::tokenizer::jinja
