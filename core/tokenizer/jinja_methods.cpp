#include "core/tokenizer/jinja_methods.h"

#include <algorithm>
#include <array>
#include <unordered_map>

#include "core/tokenizer/jinja_arguments.h"
#include "core/tokenizer/jinja_format.h"
#include "core/tokenizer/jinja_operators.h"
#include "core/tokenizer/jinja_text.h"

namespace autoglm::tokenizer::jinja {
namespace {

using Method = Value (*)(Budget&, const Callable&, const Arguments&);
using Methods = std::unordered_map<std::string_view, Method>;

constexpr size_t kMaxStripSet = 256;  // bytes

const std::string& self_text(const Callable& method) { return method.self.as_string(); }

Value bounded(Budget& budget, std::string_view s) { return budget.text(std::string(s)); }

/// A method without arguments that maps text to text.
template <std::string (*map)(std::string_view)>
Value map_text(Budget& budget, const Callable& method, const Arguments& arguments) {
  expect_none(method.name, arguments);
  budget.charge(self_text(method).size());
  return budget.text(map(self_text(method)));
}

Value is_all(Budget& budget, const Callable& method, const Arguments& arguments) {
  expect_none(method.name, arguments);
  budget.charge(self_text(method).size());
  return text::is_all(self_text(method), method.name);
}

Value strip(Budget& budget, const Callable& method, const Arguments& arguments) {
  const Parameters p(method.name, arguments, {"chars"});
  const std::optional<std::string_view> chars = p.optional_string(0);
  const size_t set_size = chars ? chars->size() : 0;
  if (set_size > kMaxStripSet) throw Error(method.name + "() of so many different characters is not supported");
  const std::string_view s = self_text(method);
  const std::string_view kept =
      text::strip(s, chars ? &*chars : nullptr, method.name != "rstrip", method.name != "lstrip");
  budget.charge((s.size() - kept.size()) * (1 + set_size) / 8);
  return bounded(budget, kept);
}

/// startswith and endswith: of a string or of any of a tuple, optionally within [start:end].
Value affix(Budget& budget, const Callable& method, const Arguments& arguments) {
  const Parameters p(method.name, arguments, {"affix", "start", "end"}, 1);
  Value subject = method.self;
  if (p.given(1)) subject = slice(budget, subject, *p.get(1), p.given(2) ? *p.get(2) : Value(), Value());
  const auto matches = [&](const Value& affix) {
    if (!affix.is_string()) throw Error(method.name + "() needs a string or a tuple of strings");
    return method.name == "startswith" ? subject.as_string().starts_with(affix.as_string())
                                       : subject.as_string().ends_with(affix.as_string());
  };
  const Sequence* options = p.get(0)->sequence();
  if (options == nullptr) return matches(*p.get(0));
  if (options->kind != SequenceKind::kTuple) throw Error(method.name + "() needs a string or a tuple of strings");
  return std::any_of(options->items.begin(), options->items.end(), matches);
}

Value remove_affix(Budget& budget, const Callable& method, const Arguments& arguments) {
  const Parameters p(method.name, arguments, {"affix"}, 1);
  std::string_view s = self_text(method);
  const std::string& affix = p.string(0);
  if (method.name == "removeprefix" && s.starts_with(affix)) s.remove_prefix(affix.size());
  if (method.name == "removesuffix" && s.ends_with(affix)) s.remove_suffix(affix.size());
  return bounded(budget, s);
}

/// The words of `s`: split at runs of white space, at most `limit` times (-1: no limit), counted from the right if
/// asked.
std::vector<std::string_view> words(std::string_view s, int64_t limit, bool from_right) {
  std::vector<std::string_view> out;
  size_t start = std::string_view::npos;
  for (size_t at = 0; at <= s.size();) {
    const text::CodePoint c = at < s.size() ? text::decode(s, at) : text::CodePoint{' ', 1};
    if (!text::is_space(c.value)) {
      if (start == std::string_view::npos) start = at;
    } else if (start != std::string_view::npos) {
      out.push_back(s.substr(start, at - start));
      start = std::string_view::npos;
    }
    at += c.size;
  }
  if (limit < 0 || out.size() <= static_cast<size_t>(limit)) return out;
  // The words beyond the limit stay together, with the white space between them and at the far end of the text.
  const auto kept = static_cast<size_t>(limit);
  if (from_right) {
    const std::string_view rest = out[out.size() - kept - 1];
    out.erase(out.begin(), out.end() - static_cast<std::ptrdiff_t>(kept));
    out.insert(out.begin(), s.substr(0, static_cast<size_t>(rest.data() + rest.size() - s.data())));
  } else {
    const std::string_view rest = out[kept];
    out.resize(kept);
    out.push_back(s.substr(static_cast<size_t>(rest.data() - s.data())));
  }
  return out;
}

std::vector<std::string_view> pieces(std::string_view s, std::string_view separator, int64_t limit, bool from_right) {
  std::vector<std::string_view> out;
  for (; limit != 0; --limit) {
    const size_t at = from_right ? s.rfind(separator) : s.find(separator);
    if (at == std::string_view::npos) break;
    const size_t after = at + separator.size();
    out.push_back(from_right ? s.substr(after) : s.substr(0, at));
    s = from_right ? s.substr(0, at) : s.substr(after);
  }
  out.push_back(s);
  return out;
}

Value strings(Budget& budget, const std::vector<std::string_view>& parts, SequenceKind kind = SequenceKind::kList) {
  Values out;
  budget.charge(parts.size());
  for (const std::string_view part : parts) out.push_back(bounded(budget, part));
  return budget.sequence(kind, std::move(out));
}

Value split(Budget& budget, const Callable& method, const Arguments& arguments) {
  const Parameters p(method.name, arguments, {"sep", "maxsplit"});
  const bool from_right = method.name == "rsplit";
  const int64_t limit = std::max<int64_t>(p.integer(1, -1), -1);
  const std::string_view s = self_text(method);
  const std::optional<std::string_view> separator = p.optional_string(0);
  if (!separator) {
    budget.charge(s.size());
    return strings(budget, words(s, limit, from_right));
  }
  if (separator->empty()) throw Error("split() with an empty separator");
  budget.charge_search(s.size(), separator->size());
  std::vector<std::string_view> parts = pieces(s, *separator, limit, from_right);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return strings(budget, parts);
}

Value partition(Budget& budget, const Callable& method, const Arguments& arguments) {
  const Parameters p(method.name, arguments, {"sep"}, 1);
  const std::string_view s = self_text(method);
  const std::string& separator = p.string(0);
  if (separator.empty()) throw Error(method.name + "() with an empty separator");
  budget.charge_search(s.size(), separator.size());
  const bool from_right = method.name == "rpartition";
  const size_t at = from_right ? s.rfind(separator) : s.find(separator);
  if (at != std::string_view::npos) {
    return strings(budget, {s.substr(0, at), separator, s.substr(at + separator.size())}, SequenceKind::kTuple);
  }
  if (from_right) return strings(budget, {"", "", s}, SequenceKind::kTuple);
  return strings(budget, {s, "", ""}, SequenceKind::kTuple);
}

Value split_lines(Budget& budget, const Callable& method, const Arguments& arguments) {
  const Parameters p(method.name, arguments, {"keepends"});
  budget.charge(self_text(method).size());
  return strings(budget, text::split_lines(self_text(method), p.flag(0, false)));
}

Value replace(Budget& budget, const Callable& method, const Arguments& arguments) {
  const Parameters p(method.name, arguments, {"old", "new", "count"}, 2);
  return replace_text(budget, self_text(method), p.string(0), p.string(1), p.integer(2, -1));
}

/// find, rfind, index, rindex, count: positions are code points.
Value search(Budget& budget, const Callable& method, const Arguments& arguments) {
  const Parameters p(method.name, arguments, {"sub", "start", "end"}, 1);
  const std::string& needle = p.string(0);
  Value subject = method.self;
  int64_t start = p.integer(1, 0);
  if (p.given(1) || p.given(2)) {
    const int64_t size = length(budget, subject);
    if (start < 0) start = std::max<int64_t>(start + size, 0);
    const bool past_end = start > size;
    subject = past_end ? Value("") : slice(budget, subject, start, p.given(2) ? *p.get(2) : Value(), Value());
    if (past_end && needle.empty()) return int64_t{method.name == "count" ? 0 : -1};
  }
  const std::string_view s = subject.as_string();
  budget.charge_search(s.size(), needle.size());
  budget.charge(s.size() / 16);
  if (method.name == "count") {
    if (needle.empty()) return static_cast<int64_t>(text::length(s)) + 1;
    int64_t n = 0;
    for (size_t at = s.find(needle); at != std::string_view::npos; at = s.find(needle, at + needle.size())) ++n;
    return n;
  }
  const size_t at = method.name.starts_with('r') ? s.rfind(needle) : s.find(needle);
  if (at != std::string_view::npos) return start + static_cast<int64_t>(text::length(s.substr(0, at)));
  if (method.name.ends_with("index")) throw Error("substring not found");
  return int64_t{-1};
}

Value join(Budget& budget, const Callable& method, const Arguments& arguments) {
  const Parameters p(method.name, arguments, {"iterable"}, 1);
  std::string out;
  bool first = true;
  for (const Value& item : budget.iterate(*p.get(0))) {
    if (!item.is_string()) throw Error("join() needs strings, found '" + std::string(item.type_name()) + "'");
    if (!first) budget.append(out, self_text(method));
    first = false;
    budget.append(out, item.as_string());
  }
  return budget.text(std::move(out));
}

/// ljust, rjust, center and zfill.
Value justify(Budget& budget, const Callable& method, const Arguments& arguments) {
  const Parameters p(method.name, arguments, {"width", "fillchar"}, 1);
  const int64_t width = p.integer(0, 0);
  const std::string fill = p.given(1) ? p.string(1) : method.name == "zfill" ? "0" : " ";
  if (text::length(fill) != 1) throw Error(method.name + "(): the fill character must be one character");
  const std::string& s = self_text(method);
  const int64_t pad = width - length(budget, method.self);
  if (pad <= 0) return method.self;
  budget.charge_text(static_cast<size_t>(std::min<int64_t>(pad, INT64_C(1) << 40)) * fill.size());
  if (method.name == "zfill") {
    const bool sign = s.starts_with('+') || s.starts_with('-');
    return budget.text((sign ? s.substr(0, 1) : "") + std::string(static_cast<size_t>(pad), '0') +
                       s.substr(sign ? 1 : 0));
  }
  // str.center puts the odd character left when the width is odd.
  const int64_t left = method.name == "ljust" ? 0 : method.name == "rjust" ? pad : pad / 2 + (pad & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += s;
  for (int64_t i = left; i < pad; ++i) out += fill;
  return budget.text(std::move(out));
}

Value format(Budget& budget, const Callable& method, const Arguments& arguments) {
  return budget.text(format_braces(budget, self_text(method), arguments));
}

const Methods& string_methods() {
  static const Methods methods = {
      {"upper", map_text<text::upper>},
      {"lower", map_text<text::lower>},
      {"casefold", map_text<text::lower>},
      {"capitalize", map_text<text::capitalize>},
      {"title", map_text<text::title>},
      {"isalpha", is_all},
      {"isdigit", is_all},
      {"isalnum", is_all},
      {"isspace", is_all},
      {"isupper", is_all},
      {"islower", is_all},
      {"strip", strip},
      {"lstrip", strip},
      {"rstrip", strip},
      {"startswith", affix},
      {"endswith", affix},
      {"removeprefix", remove_affix},
      {"removesuffix", remove_affix},
      {"split", split},
      {"rsplit", split},
      {"partition", partition},
      {"rpartition", partition},
      {"splitlines", split_lines},
      {"replace", replace},
      {"find", search},
      {"rfind", search},
      {"index", search},
      {"rindex", search},
      {"count", search},
      {"join", join},
      {"ljust", justify},
      {"rjust", justify},
      {"center", justify},
      {"zfill", justify},
      {"format", format},
  };
  return methods;
}

Value dict_view(Budget& budget, const Callable& method, const Arguments& arguments) {
  expect_none(method.name, arguments);
  Values out;
  for (const auto& [key, value] : method.self.dict()->items) {
    if (method.name == "keys") out.push_back(key);
    if (method.name == "values") out.push_back(value);
    if (method.name == "items") out.push_back(budget.tuple({key, value}));
  }
  const SequenceKind kind = method.name == "keys"     ? SequenceKind::kKeys
                            : method.name == "values" ? SequenceKind::kValues
                                                      : SequenceKind::kItems;
  return budget.sequence(kind, std::move(out));
}

Value dict_get(Budget& budget, const Callable& method, const Arguments& arguments) {
  const Parameters p(method.name, arguments, {"key", "default"}, 1);
  budget.charge(p.get(0)->weight());
  const Value* found = method.self.dict()->find(*p.get(0));
  return found != nullptr ? *found : p.given(1) ? *p.get(1) : Value();
}

Value copy(Budget&, const Callable& method, const Arguments& arguments) {
  expect_none(method.name, arguments);
  return method.self;  // values never change
}

const Methods& dict_methods() {
  static const Methods methods = {
      {"keys", dict_view}, {"values", dict_view}, {"items", dict_view}, {"get", dict_get}, {"copy", copy}};
  return methods;
}

Value sequence_count(Budget& budget, const Callable& method, const Arguments& arguments) {
  const Parameters p(method.name, arguments, {"value"}, 1);
  int64_t n = 0;
  for (const Value& item : method.self.sequence()->items) n += compare(budget, "==", item, *p.get(0)) ? 1 : 0;
  return n;
}

Value sequence_index(Budget& budget, const Callable& method, const Arguments& arguments) {
  const Parameters p(method.name, arguments, {"value"}, 1);
  const Values& items = method.self.sequence()->items;
  for (size_t i = 0; i < items.size(); ++i) {
    if (compare(budget, "==", items[i], *p.get(0))) return static_cast<int64_t>(i);
  }
  throw Error("the value is not in the " + std::string(method.self.type_name()));
}

const Methods& sequence_methods() {
  static const Methods methods = {{"count", sequence_count}, {"index", sequence_index}, {"copy", copy}};
  return methods;
}

Value loop_cycle(Budget&, const Callable& method, const Arguments& arguments) {
  if (arguments.positional.empty()) throw Error("loop.cycle() needs at least one value");
  return arguments.positional[static_cast<size_t>(method.self.loop()->index0) % arguments.positional.size()];
}

const Methods& loop_methods() {
  static const Methods methods = {{"cycle", loop_cycle}};
  return methods;
}

const Methods* methods_of(const Value& object) {
  if (object.is_string()) return &string_methods();
  if (object.dict() != nullptr) return &dict_methods();
  if (object.loop() != nullptr) return &loop_methods();
  const Sequence* s = object.sequence();
  const bool row = s != nullptr && (s->kind == SequenceKind::kList || s->kind == SequenceKind::kTuple);
  return row ? &sequence_methods() : nullptr;
}

template <size_t N>
bool has(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool changes_object(const Value& object, std::string_view name) {
  static constexpr std::array<std::string_view, 5> kDict = {"clear", "pop", "popitem", "setdefault", "update"};
  static constexpr std::array<std::string_view, 8> kList = {"append", "clear", "pop",    "reverse",
                                                            "insert", "sort",  "extend", "remove"};
  if (object.dict() != nullptr) return has(kDict, name);
  return object.sequence() != nullptr && object.sequence()->kind == SequenceKind::kList && has(kList, name);
}

/// Attributes that Python's types have and this language has not.
bool known_elsewhere(const Value& object, std::string_view name) {
  static constexpr std::array<std::string_view, 12> kText = {"encode",    "expandtabs",   "format_map", "isascii",
                                                             "isdecimal", "isidentifier", "isnumeric",  "isprintable",
                                                             "istitle",   "swapcase",     "translate",  "maketrans"};
  static constexpr std::array<std::string_view, 13> kNumber = {
      "real", "imag",       "numerator",        "denominator", "conjugate", "bit_length", "bit_count",
      "hex",  "is_integer", "as_integer_ratio", "to_bytes",    "fromhex",   "from_bytes"};
  if (object.is_string()) return has(kText, name);
  if (object.dict() != nullptr) return name == "fromkeys";
  return object.is_number() && has(kNumber, name);
}

}  // namespace

std::optional<Value> find_method(const Value& object, const std::string& name) {
  const Methods* methods = methods_of(object);
  if (methods != nullptr && methods->count(name) > 0) {
    return Value(std::make_shared<const Callable>(Callable{name, object, nullptr}));
  }
  const std::string type(object.type_name());
  if (changes_object(object, name)) {
    return undefined("access to attribute '" + name + "' of '" + type +
                     "' object is unsafe: templates cannot change values");
  }
  if (known_elsewhere(object, name)) throw Error("'" + name + "' of '" + type + "' is not supported");
  return std::nullopt;
}

Value call_method(Budget& budget, const Callable& method, const Arguments& arguments) {
  budget.charge(1);
  return methods_of(method.self)->at(method.name)(budget, method, arguments);
}

Value replace_text(Budget& budget, const std::string& s, const std::string& from, const std::string& to,
                   int64_t count) {
  budget.charge_search(s.size(), from.size());
  // Every byte of `s` may be a match; only a replacement that grows the text needs the exact bound.
  if (to.size() > from.size()) {
    size_t matches = 0;
    if (from.empty()) {
      matches = text::length(s) + 1;
    } else {
      for (size_t at = s.find(from); at != std::string::npos; at = s.find(from, at + from.size())) ++matches;
    }
    if (count >= 0) matches = std::min(matches, static_cast<size_t>(count));
    if (matches > 0 && to.size() > budget.limits().max_output / matches)
      budget.charge_text(budget.limits().max_output + 1);
  }
  return budget.text(text::replace(s, from, to, count));
}

}  // namespace autoglm::tokenizer::jinja
