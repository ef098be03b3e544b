#include "core/tokenizer/jinja_operators.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/tokenizer/jinja_format.h"
#include "core/tokenizer/jinja_methods.h"
#include "core/tokenizer/jinja_text.h"

namespace autoglm::tokenizer::jinja {
namespace {

constexpr size_t kBytesPerStep = 16;

[[noreturn]] void fail_operands(std::string_view op, const Value& a, const Value& b) {
  throw Error("unsupported operand types for " + std::string(op) + ": '" + std::string(a.type_name()) + "' and '" +
              std::string(b.type_name()) + "'");
}

[[noreturn]] void fail_overflow() { throw Error("whole numbers beyond 64 bits are not supported"); }
[[noreturn]] void fail_zero() { throw Error("division by zero"); }

Value power(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral() && b.as_int() >= 0) {
    int64_t base = a.as_int();
    int64_t result = 1;
    for (int64_t n = b.as_int(); n > 0; n /= 2) {
      if (n % 2 == 1 && __builtin_mul_overflow(result, base, &result)) fail_overflow();
      if (n > 1 && __builtin_mul_overflow(base, base, &base)) fail_overflow();
    }
    return result;
  }
  const double x = a.as_double();
  const double y = b.as_double();
  if (x == 0 && y < 0) fail_zero();
  if (x < 0 && y != std::floor(y)) throw Error("complex numbers are not supported");
  const double result = std::pow(x, y);
  if (std::isinf(result) && !std::isinf(x) && !std::isinf(y)) throw Error("the result of ** is too large");
  return result;
}

/// Python's // and %: the quotient is rounded down, the remainder has the sign of the divisor.
Value divide_down(std::string_view op, const Value& a, const Value& b) {
  const bool remainder = op == "%";
  if (a.is_integral() && b.is_integral()) {
    const int64_t x = a.as_int();
    const int64_t y = b.as_int();
    if (y == 0) fail_zero();
    if (y == -1) {  // the one divisor for which the machine's division can overflow
      int64_t negated = 0;
      if (remainder) return int64_t{0};
      if (__builtin_sub_overflow(int64_t{0}, x, &negated)) fail_overflow();
      return negated;
    }
    const int64_t rest = x % y;
    const bool adjust = rest != 0 && (rest < 0) != (y < 0);
    if (remainder) return adjust ? rest + y : rest;
    return adjust ? x / y - 1 : x / y;
  }
  const double x = a.as_double();
  const double y = b.as_double();
  if (y == 0) fail_zero();
  double rest = std::fmod(x, y);
  double quotient = (x - rest) / y;
  if (rest != 0) {
    if ((y < 0) != (rest < 0)) {
      rest += y;
      quotient -= 1;
    }
  } else {
    rest = std::copysign(0.0, y);
  }
  if (remainder) return rest;
  if (quotient == 0) return std::copysign(0.0, x / y);
  const double rounded = std::floor(quotient);
  return quotient - rounded > 0.5 ? rounded + 1 : rounded;
}

Value arithmetic(std::string_view op, const Value& a, const Value& b) {
  if (op == "**") return power(a, b);
  if (op == "//" || op == "%") return divide_down(op, a, b);
  if (op == "/") {
    if (b.as_double() == 0) fail_zero();
    if (a.is_integral() && b.is_integral()) {
      return static_cast<double>(static_cast<long double>(a.as_int()) / static_cast<long double>(b.as_int()));
    }
    return a.as_double() / b.as_double();
  }
  if (a.is_integral() && b.is_integral()) {
    int64_t result = 0;
    const bool overflow = op == "+"   ? __builtin_add_overflow(a.as_int(), b.as_int(), &result)
                          : op == "-" ? __builtin_sub_overflow(a.as_int(), b.as_int(), &result)
                                      : __builtin_mul_overflow(a.as_int(), b.as_int(), &result);
    if (overflow) fail_overflow();
    return result;
  }
  const double x = a.as_double();
  const double y = b.as_double();
  return op == "+" ? x + y : op == "-" ? x - y : x * y;
}

bool is_list_or_tuple(const Value& v) {
  return v.sequence() != nullptr &&
         (v.sequence()->kind == SequenceKind::kList || v.sequence()->kind == SequenceKind::kTuple);
}

Value repeat(Budget& budget, const Value& v, int64_t times) {
  const auto count = static_cast<size_t>(std::max<int64_t>(times, 0));
  if (v.is_string()) {
    const std::string& s = v.as_string();
    if (!s.empty() && count > budget.limits().max_output / s.size()) budget.charge_text(budget.limits().max_output + 1);
    std::string out;
    out.reserve(s.size() * count);
    for (size_t i = 0; i < (s.empty() ? 0 : count); ++i) out += s;
    return budget.text(std::move(out));
  }
  const Sequence& s = *v.sequence();
  if (!s.items.empty() && count > budget.limits().max_elements / s.items.size()) {
    throw Error("the template made a list that is too long and was stopped");
  }
  Values out;
  for (size_t i = 0; i < (s.items.empty() ? 0 : count); ++i) out.insert(out.end(), s.items.begin(), s.items.end());
  return budget.sequence(s.kind, std::move(out));
}

Value add(Budget& budget, const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) return add_text(budget, a, b);
  if (is_list_or_tuple(a) && is_list_or_tuple(b) && a.sequence()->kind == b.sequence()->kind) {
    Values out = a.sequence()->items;
    out.insert(out.end(), b.sequence()->items.begin(), b.sequence()->items.end());
    return budget.sequence(a.sequence()->kind, std::move(out));
  }
  fail_operands("+", a, b);
}

/// "dict object", as Jinja names the type in its messages.
std::string describe(const Value& v) { return v.is_none() ? "None" : std::string(v.type_name()) + " object"; }

Value no_attribute(const Value& object, const std::string& name) {
  return undefined(text::repr(describe(object)) + " has no attribute " + text::repr(name));
}

/// The byte at which code point `index` starts; `index` may equal the length.
size_t byte_offset(std::string_view s, int64_t index) {
  size_t at = 0;
  for (; index > 0 && at < s.size(); --index) at += text::decode(s, at).size;
  return at;
}

std::optional<Value> element(Budget& budget, const Value& object, int64_t index) {
  const int64_t size = length(budget, object);
  if (index < 0) index += size;
  if (index < 0 || index >= size) return std::nullopt;
  if (!object.is_string()) return object.sequence()->items[static_cast<size_t>(index)];
  const std::string_view s = object.as_string();
  const size_t at = byte_offset(s, index);
  return Value(s.substr(at, text::decode(s, at).size));
}

bool indexable(const Value& v) {
  return v.is_string() || is_list_or_tuple(v) ||
         (v.sequence() != nullptr && v.sequence()->kind == SequenceKind::kRange);
}

Value loop_attribute(const Loop& loop, const std::string& name) {
  const Values& items = loop.items->items;
  const auto size = static_cast<int64_t>(items.size());
  const int64_t i = loop.index0;
  if (name == "index") return i + 1;
  if (name == "index0") return i;
  if (name == "revindex") return size - i;
  if (name == "revindex0") return size - i - 1;
  if (name == "first") return i == 0;
  if (name == "last") return i == size - 1;
  if (name == "length") return size;
  if (name == "depth") return loop.depth0 + 1;
  if (name == "depth0") return loop.depth0;
  if (name == "previtem") return i == 0 ? undefined("there is no previous item") : items[static_cast<size_t>(i - 1)];
  if (name == "nextitem") return i == size - 1 ? undefined("there is no next item") : items[static_cast<size_t>(i + 1)];
  if (name == "changed") throw Error("loop.changed() is not supported");
  return undefined("'LoopContext object' has no attribute " + text::repr(name));
}

/// Methods and computed attributes; nothing when there is none of that name.
std::optional<Value> find_attribute(const Value& object, const std::string& name) {
  if (name.size() > 4 && name.starts_with("__") && name.ends_with("__")) {
    return undefined("access to attribute " + text::repr(name) + " of '" + std::string(object.type_name()) +
                     "' object is unsafe");
  }
  if (object.loop() != nullptr && name != "cycle") return loop_attribute(*object.loop(), name);
  if (Namespace* ns = object.name_space()) {
    const Value* found = ns->find(name);
    return found == nullptr ? std::nullopt : std::optional<Value>(*found);
  }
  return find_method(object, name);
}

}  // namespace

Value binary(Budget& budget, std::string_view op, const Value& a, const Value& b) {
  if (op == "%" && a.is_string()) return budget.text(format_percent(budget, a.as_string(), b));
  if (a.is_undefined()) throw Error(a.undefined_message());
  if (b.is_undefined()) throw Error(b.undefined_message());
  if (a.is_number() && b.is_number()) return arithmetic(op, a, b);
  if (op == "+") return add(budget, a, b);
  if (op == "*") {
    if ((a.is_string() || is_list_or_tuple(a)) && b.is_integral()) return repeat(budget, a, b.as_int());
    if ((b.is_string() || is_list_or_tuple(b)) && a.is_integral()) return repeat(budget, b, a.as_int());
  }
  fail_operands(op, a, b);
}

bool compare(Budget& budget, std::string_view op, const Value& a, const Value& b) {
  if (op == "in") return contains(budget, a, b);
  if (op == "not in") return !contains(budget, a, b);
  budget.charge(std::min(a.weight(), b.weight()));
  if (op == "==") return equal(a, b);
  if (op == "!=") return !equal(a, b);
  if (op == "<") return less(a, b);
  if (op == ">") return less(b, a);
  // Not the negation of the opposite: NaN is neither.
  return op == "<=" ? less(a, b) || equal(a, b) : less(b, a) || equal(a, b);
}

bool contains(Budget& budget, const Value& needle, const Value& haystack) {
  if (haystack.is_string()) {
    if (!needle.is_string()) {
      throw Error("'in <string>' requires string as left operand, not " + std::string(needle.type_name()));
    }
    budget.charge_search(haystack.as_string().size(), needle.as_string().size());
    return haystack.as_string().find(needle.as_string()) != std::string::npos;
  }
  if (const Dict* dict = haystack.dict()) {
    budget.charge(needle.weight());
    ValueHash()(needle);  // fails for what cannot be a key, also when the dict is empty
    return dict->find(needle) != nullptr;
  }
  for (const Value& item : budget.iterate(haystack)) {
    budget.charge(std::min(item.weight(), needle.weight()));
    if (equal(item, needle)) return true;
  }
  return false;
}

Value negate(const Value& v) {
  if (v.is_undefined()) throw Error(v.undefined_message());
  if (v.is_float()) return -v.as_double();
  if (!v.is_integral()) throw Error("bad operand type for unary -: '" + std::string(v.type_name()) + "'");
  int64_t result = 0;
  if (__builtin_sub_overflow(int64_t{0}, v.as_int(), &result)) fail_overflow();
  return result;
}

Value get_attribute(Budget& budget, const Value& object, const std::string& name) {
  budget.charge(1 + (object.name_space() != nullptr ? object.name_space()->attributes.size() / 8 : 0));
  if (object.is_undefined()) throw Error(object.undefined_message());
  if (std::optional<Value> found = find_attribute(object, name)) return *found;
  if (const Dict* dict = object.dict()) {
    if (const Value* value = dict->find(name)) return *value;
  }
  return no_attribute(object, name);
}

Value get_item(Budget& budget, const Value& object, const Value& key) {
  budget.charge(1 + (object.name_space() != nullptr ? object.name_space()->attributes.size() / 8 : 0));
  if (object.is_undefined()) throw Error(object.undefined_message());
  const bool unhashable =
      key.dict() != nullptr || (key.sequence() != nullptr && key.sequence()->kind != SequenceKind::kTuple);
  if (const Dict* dict = object.dict(); dict != nullptr && !unhashable) {
    if (const Value* value = dict->find(key)) return *value;
  }
  if (indexable(object) && key.is_integral()) {
    if (std::optional<Value> found = element(budget, object, key.as_int())) return *found;
  }
  if (key.is_string()) {
    if (std::optional<Value> found = find_attribute(object, key.as_string())) return *found;
    return no_attribute(object, key.as_string());
  }
  return undefined(describe(object) + " has no element " + to_repr(budget, key));
}

Value slice(Budget& budget, const Value& object, const Value& start, const Value& stop, const Value& step) {
  if (object.is_undefined()) throw Error(object.undefined_message());
  if (!indexable(object)) throw Error("'" + std::string(object.type_name()) + "' object cannot be sliced");
  for (const Value* bound : {&start, &stop, &step}) {
    if (!bound->is_none() && !bound->is_integral()) throw Error("slice indices must be whole numbers or none");
  }
  const int64_t stride = step.is_none() ? 1 : step.as_int();
  if (stride == 0) throw Error("slice step cannot be zero");
  const int64_t size = length(budget, object);
  // Bounds as slice.indices() clamps them.
  const int64_t lowest = stride > 0 ? 0 : -1;
  const int64_t highest = stride > 0 ? size : size - 1;
  const auto clamp = [&](const Value& bound, int64_t missing) {
    if (bound.is_none()) return missing;
    const int64_t i = bound.as_int();
    return std::clamp(i < 0 ? i + size : i, lowest, highest);
  };
  const int64_t first = clamp(start, stride > 0 ? lowest : highest);
  const int64_t last = clamp(stop, stride > 0 ? highest : lowest);

  if (object.is_string() && stride == 1) {
    const std::string_view s = object.as_string();
    const size_t begin = byte_offset(s, first);
    return budget.text(std::string(s.substr(begin, byte_offset(s.substr(begin), last - first))));
  }
  const Values items = object.is_string() ? budget.iterate(object) : Values();
  const Values& source = object.is_string() ? items : object.sequence()->items;
  Values out;
  for (int64_t i = first; stride > 0 ? i < last : i > last;) {
    out.push_back(source[static_cast<size_t>(i)]);
    if (__builtin_add_overflow(i, stride, &i)) break;
  }
  if (!object.is_string()) {
    const SequenceKind kind = object.sequence()->kind;
    return budget.sequence(kind, std::move(out));
  }
  std::string joined;
  for (const Value& character : out) joined += character.as_string();
  return budget.text(std::move(joined));
}

int64_t length(Budget& budget, const Value& v) {
  if (v.is_undefined()) return 0;
  if (v.is_string()) {
    budget.charge(v.as_string().size() / kBytesPerStep);
    return static_cast<int64_t>(text::length(v.as_string()));
  }
  if (const Dict* dict = v.dict()) return static_cast<int64_t>(dict->items.size());
  if (const Loop* loop = v.loop()) return static_cast<int64_t>(loop->items->items.size());
  if (v.sequence() == nullptr || v.sequence()->kind == SequenceKind::kIterator) {
    throw Error("object of type '" + std::string(v.type_name()) + "' has no len()");
  }
  return static_cast<int64_t>(v.sequence()->items.size());
}

Value add_text(Budget& budget, const Value& a, const Value& b) {
  budget.charge_text(a.as_string().size() + b.as_string().size());
  if (a.is_markup() == b.is_markup()) {
    return Text{std::make_shared<const std::string>(a.as_string() + b.as_string()), a.is_markup()};
  }
  std::string joined = (a.is_markup() ? a.as_string() : text::escape_html(a.as_string())) +
                       (b.is_markup() ? b.as_string() : text::escape_html(b.as_string()));
  budget.charge_text(joined.size());
  return Text{std::make_shared<const std::string>(std::move(joined)), true};
}

}  // namespace autoglm::tokenizer::jinja
