#include "core/tokenizer/jinja_filters.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <unordered_map>

#include "core/tokenizer/jinja_arguments.h"
#include "core/tokenizer/jinja_format.h"
#include "core/tokenizer/jinja_json.h"
#include "core/tokenizer/jinja_methods.h"
#include "core/tokenizer/jinja_numbers.h"
#include "core/tokenizer/jinja_operators.h"
#include "core/tokenizer/jinja_text.h"

namespace autoglm::tokenizer::jinja {
namespace {

using Filter = Value (*)(Budget&, const Value&, const Arguments&);
using Getter = std::function<Value(const Value&)>;

/// A filter that is a method of str, applied to the text of the value.
Value text_method(Budget& budget, const Value& input, const Arguments& arguments, const char* method) {
  return call_method(budget, Callable{method, Value(to_str(budget, input)), nullptr}, arguments);
}

/// Strings compare without regard to case unless a filter is told otherwise.
Value ignore_case(Budget& budget, const Value& v) {
  return v.is_string() ? budget.text(text::lower(v.as_string())) : v;
}

/// What `attribute="a.b.0"` asks of each element; without it the element itself.
Getter attribute_getter(Budget& budget, const Value* attribute, const Value* fallback = nullptr) {
  if (attribute == nullptr || attribute->is_none()) return [](const Value& item) { return item; };
  Values parts;
  if (attribute->is_string()) {
    const std::string& path = attribute->as_string();
    for (size_t begin = 0; begin <= path.size();) {
      const size_t end = std::min(path.find('.', begin), path.size());
      const std::string part = path.substr(begin, end - begin);
      int64_t index = 0;
      const bool digits = !part.empty() && std::all_of(part.begin(), part.end(), text::is_ascii_digit);
      const bool number = digits && std::from_chars(part.data(), part.data() + part.size(), index).ec == std::errc();
      parts.push_back(number ? Value(index) : Value(part));
      begin = end + 1;
    }
  } else {
    parts.push_back(*attribute);
  }
  const Value missing = fallback == nullptr ? Value() : *fallback;
  return [&budget, parts, missing](const Value& item) {
    Value value = item;
    for (const Value& part : parts) {
      value = get_item(budget, value, part);
      if (value.is_undefined() && !missing.is_none()) value = missing;
    }
    return value;
  };
}

Getter sort_key(Budget& budget, const Value* attribute, bool case_sensitive) {
  Getter getter = attribute_getter(budget, attribute);
  if (case_sensitive) return getter;
  return [&budget, getter](const Value& item) { return ignore_case(budget, getter(item)); };
}

/// `items` in the order of their keys; equal keys keep their order, also when reversed.
Values sorted(Budget& budget, const Values& items, const Getter& key, bool reverse) {
  std::vector<std::pair<Value, const Value*>> keyed;
  for (const Value& item : items) keyed.emplace_back(key(item), &item);
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    budget.charge(std::min(a.first.weight(), b.first.weight()));
    return reverse ? less(b.first, a.first) : less(a.first, b.first);
  });
  Values out;
  for (const auto& [unused, item] : keyed) out.push_back(*item);
  return out;
}

// ---- text

Value trim(Budget& budget, const Value& input, const Arguments& arguments) {
  return text_method(budget, input, arguments, "strip");
}

Value title(Budget& budget, const Value& input, const Arguments& arguments) {
  expect_none("title", arguments);
  // Unlike str.title(): words begin after white space and -({[< only.
  std::string out;
  bool start = true;
  std::string word;
  const auto flush = [&] {
    out += text::capitalize(word);
    word.clear();
  };
  const std::string s = to_str(budget, input);
  budget.charge(s.size());
  for (size_t at = 0; at < s.size();) {
    const text::CodePoint c = text::decode(s, at);
    const bool separator = text::is_space(c.value) ||
                           (c.value > 0 && c.value < 128 &&
                            std::string_view("-({[<").find(static_cast<char>(c.value)) != std::string_view::npos);
    if (separator != start) flush();
    start = separator;
    word.append(s, at, c.size);
    at += c.size;
  }
  flush();
  return budget.text(std::move(out));
}

Value replace(Budget& budget, const Value& input, const Arguments& arguments) {
  const Parameters p("replace", arguments, {"old", "new", "count"}, 2);
  return replace_text(budget, to_str(budget, input), to_str(budget, *p.get(0)), to_str(budget, *p.get(1)),
                      p.integer(2, -1));
}

Value format(Budget& budget, const Value& input, const Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    throw Error("format cannot take positional and named arguments at once");
  }
  std::vector<std::pair<Value, Value>> named;
  for (const auto& [name, value] : arguments.named) named.emplace_back(name, value);
  const Value values = named.empty() ? budget.tuple(arguments.positional) : budget.dict(named);
  return budget.text(format_percent(budget, to_str(budget, input), values));
}

Value indent(Budget& budget, const Value& input, const Arguments& arguments) {
  const Parameters p("indent", arguments, {"width", "first", "blank"});
  if (input.is_undefined()) throw Error(input.undefined_message());
  if (!input.is_string()) throw Error("indent needs a string, not '" + std::string(input.type_name()) + "'");
  std::string margin;
  if (p.given(0) && p.get(0)->is_string()) {
    margin = p.string(0);
  } else {
    const int64_t width = std::max<int64_t>(p.integer(0, 4), 0);
    budget.charge_text(static_cast<size_t>(width));
    margin.assign(static_cast<size_t>(width), ' ');
  }
  const bool blank = p.flag(2, false);
  const std::string s = input.as_string() + "\n";
  std::string out = p.flag(1, false) ? margin : "";
  bool first = true;
  for (const std::string_view line : text::split_lines(s)) {
    if (!first) budget.append(out, "\n");
    if (!first && (blank || !line.empty())) budget.append(out, margin);
    first = false;
    budget.append(out, line);
  }
  return budget.text(std::move(out));
}

Value escape(Budget& budget, const Value& input, const Arguments& arguments) {
  expect_none("escape", arguments);
  if (input.is_markup()) return input;
  std::string escaped = text::escape_html(to_str(budget, input));
  budget.charge_text(escaped.size());
  return Text{std::make_shared<const std::string>(std::move(escaped)), true};
}

Value safe(Budget& budget, const Value& input, const Arguments& arguments) {
  expect_none("safe", arguments);
  return Text{std::make_shared<const std::string>(to_str(budget, input)), true};
}

Value to_json_filter(Budget& budget, const Value& input, const Arguments& arguments) {
  const Parameters p("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonLayout layout;
  layout.ensure_ascii = p.flag(0, false);
  layout.sort_keys = p.flag(3, false);
  if (!p.is_none(1)) {
    layout.indented = true;
    layout.item_separator = ",";
    if (p.get(1)->is_string()) {
      layout.indent = p.string(1);
    } else {
      const int64_t width = std::max<int64_t>(p.integer(1, 0), 0);
      budget.charge_text(static_cast<size_t>(width));
      layout.indent.assign(static_cast<size_t>(width), ' ');
    }
  }
  if (!p.is_none(2)) {
    const Values separators = budget.iterate(*p.get(2));
    if (separators.size() != 2 || !separators[0].is_string() || !separators[1].is_string()) {
      throw Error("tojson: separators must be two strings");
    }
    layout.item_separator = separators[0].as_string();
    layout.key_separator = separators[1].as_string();
  }
  return budget.text(to_json(budget, input, layout));
}

// ---- numbers

Value to_int(Budget&, const Value& input, const Arguments& arguments) {
  const Parameters p("int", arguments, {"default", "base"});
  if (input.is_undefined()) throw Error(input.undefined_message());
  const Value fallback = p.given(0) ? *p.get(0) : Value(int64_t{0});
  if (input.is_integral()) return input.as_int();
  std::optional<int64_t> value;
  if (input.is_float()) {
    value = truncate(input.as_double());
  } else if (input.is_string()) {
    const int64_t base = p.integer(1, 10);
    if (base < 2 || base > 36) throw Error("int: the base must lie between 2 and 36");
    value = parse_integer(input.as_string(), static_cast<int>(base));
    if (!value) {
      const std::optional<double> real = parse_float(input.as_string());
      if (real) value = truncate(*real);
    }
  }
  return value ? Value(*value) : fallback;
}

Value to_float(Budget&, const Value& input, const Arguments& arguments) {
  const Parameters p("float", arguments, {"default"});
  if (input.is_undefined()) throw Error(input.undefined_message());
  if (input.is_number()) return input.as_double();
  const std::optional<double> value = input.is_string() ? parse_float(input.as_string()) : std::nullopt;
  return value ? Value(*value) : p.given(0) ? *p.get(0) : Value(0.0);
}

Value absolute(Budget&, const Value& input, const Arguments& arguments) {
  expect_none("abs", arguments);
  if (input.is_undefined()) throw Error(input.undefined_message());
  if (!input.is_number()) throw Error("bad operand type for abs(): '" + std::string(input.type_name()) + "'");
  if (input.is_float()) return std::abs(input.as_double());
  return input.as_int() < 0 ? negate(input) : Value(input.as_int());
}

Value round(Budget& budget, const Value& input, const Arguments& arguments) {
  const Parameters p("round", arguments, {"precision", "method"});
  if (input.is_undefined()) throw Error(input.undefined_message());
  if (!input.is_number()) throw Error("round needs a number, not '" + std::string(input.type_name()) + "'");
  const int64_t precision = std::clamp<int64_t>(p.integer(0, 0), -300, 300);
  const std::string method = p.given(1) ? p.string(1) : "common";
  if (method == "common") {
    if (input.is_float()) return round_to(input.as_double(), static_cast<int>(precision));
    if (precision < 0) throw Error("rounding a whole number to tens is not supported");
    return input.as_int();
  }
  if (method != "ceil" && method != "floor") throw Error("round: the method must be common, ceil or floor");
  const Value scale = binary(budget, "**", int64_t{10}, precision);
  const double scaled = binary(budget, "*", input, scale).as_double();
  const std::optional<int64_t> whole = truncate(method == "ceil" ? std::ceil(scaled) : std::floor(scaled));
  if (!whole) throw Error("cannot round an infinite number or NaN");
  return binary(budget, "/", *whole, scale);
}

// ---- rows of values

Value default_value(Budget&, const Value& input, const Arguments& arguments) {
  const Parameters p("default", arguments, {"default_value", "boolean"});
  const bool missing = input.is_undefined() || (p.flag(1, false) && !input.truthy());
  return !missing ? input : p.given(0) ? *p.get(0) : Value("");
}

Value length_filter(Budget& budget, const Value& input, const Arguments& arguments) {
  expect_none("length", arguments);
  return length(budget, input);
}

Value first(Budget& budget, const Value& input, const Arguments& arguments) {
  expect_none("first", arguments);
  if (const Sequence* s = input.sequence(); s != nullptr && !s->items.empty()) {
    Value value = s->items[0];
    if (s->kind == SequenceKind::kIterator) {
      budget.charge(s->items.size());
      s->items.erase(s->items.begin());
    }
    return value;
  }
  const Values items = budget.iterate(input);
  return items.empty() ? undefined("No first item, sequence was empty.") : items.front();
}

Value last(Budget& budget, const Value& input, const Arguments& arguments) {
  expect_none("last", arguments);
  if (input.sequence() != nullptr && input.sequence()->kind == SequenceKind::kIterator) {
    throw Error("'generator' object is not reversible");
  }
  const Values items = budget.iterate(input);
  return items.empty() ? undefined("No last item, sequence was empty.") : items.back();
}

Value list(Budget& budget, const Value& input, const Arguments& arguments) {
  expect_none("list", arguments);
  return budget.list(budget.iterate(input));
}

Value join(Budget& budget, const Value& input, const Arguments& arguments) {
  const Parameters p("join", arguments, {"d", "attribute"});
  const Getter getter = attribute_getter(budget, p.get(1));
  const std::string separator = p.given(0) ? to_str(budget, *p.get(0)) : "";
  std::string out;
  bool first = true;
  for (const Value& item : budget.iterate(input)) {
    if (!first) budget.append(out, separator);
    first = false;
    budget.append(out, to_str(budget, getter(item)));
  }
  return budget.text(std::move(out));
}

Value items(Budget& budget, const Value& input, const Arguments& arguments) {
  expect_none("items", arguments);
  if (input.is_undefined()) return budget.iterator({});
  if (input.dict() == nullptr) throw Error("Can only get item pairs from a mapping.");
  Values out;
  for (const auto& [key, value] : input.dict()->items) out.push_back(budget.tuple({key, value}));
  return budget.iterator(std::move(out));
}

Value dictsort(Budget& budget, const Value& input, const Arguments& arguments) {
  const Parameters p("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  if (input.is_undefined()) throw Error(input.undefined_message());
  if (input.dict() == nullptr) throw Error("dictsort needs a dict, not '" + std::string(input.type_name()) + "'");
  const std::string by = p.given(1) ? p.string(1) : "key";
  if (by != "key" && by != "value") throw Error("dictsort: 'by' must be \"key\" or \"value\"");
  const Value position(int64_t{by == "key" ? 0 : 1});
  const Value pairs = items(budget, input, {});
  return budget.list(
      sorted(budget, budget.iterate(pairs), sort_key(budget, &position, p.flag(0, false)), p.flag(2, false)));
}

Value sort(Budget& budget, const Value& input, const Arguments& arguments) {
  const Parameters p("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  const bool case_sensitive = p.flag(1, false);
  Getter key;
  if (p.given(2) && p.get(2)->is_string()) {  // several attributes: a list of keys
    std::vector<Getter> keys;
    const std::string& names = p.string(2);
    for (size_t begin = 0; begin <= names.size();) {
      const size_t end = std::min(names.find(',', begin), names.size());
      const Value name(names.substr(begin, end - begin));
      keys.push_back(sort_key(budget, &name, case_sensitive));
      begin = end + 1;
    }
    key = [&budget, keys](const Value& item) {
      Values parts;
      for (const Getter& getter : keys) parts.push_back(getter(item));
      return budget.list(std::move(parts));
    };
  } else {
    key = sort_key(budget, p.get(2), case_sensitive);
  }
  return budget.list(sorted(budget, budget.iterate(input), key, p.flag(0, false)));
}

Value unique(Budget& budget, const Value& input, const Arguments& arguments) {
  const Parameters p("unique", arguments, {"case_sensitive", "attribute"});
  const Getter key = sort_key(budget, p.get(1), p.flag(0, false));
  std::unordered_map<Value, bool, ValueHash, ValueEqual> seen;
  Values out;
  for (const Value& item : budget.iterate(input)) {
    const Value value = key(item);
    budget.charge(value.weight());
    if (seen.try_emplace(value, true).second) out.push_back(item);
    check_bucket(seen, value);
  }
  return budget.iterator(std::move(out));
}

Value extreme(Budget& budget, const Value& input, const Arguments& arguments, bool maximum) {
  const Parameters p(maximum ? "max" : "min", arguments, {"case_sensitive", "attribute"});
  const Getter key = sort_key(budget, p.get(1), p.flag(0, false));
  const Values items = budget.iterate(input);
  if (items.empty()) return undefined("No aggregated item, sequence was empty.");
  const Value* best = &items[0];
  Value best_key = key(items[0]);
  for (size_t i = 1; i < items.size(); ++i) {
    Value candidate = key(items[i]);
    if (compare(budget, maximum ? ">" : "<", candidate, best_key)) {
      best = &items[i];
      best_key = std::move(candidate);
    }
  }
  return *best;
}

Value sum(Budget& budget, const Value& input, const Arguments& arguments) {
  const Parameters p("sum", arguments, {"attribute", "start"});
  const Getter getter = attribute_getter(budget, p.get(0));
  Value total = p.given(1) ? *p.get(1) : Value(int64_t{0});
  if (total.is_string()) throw Error("sum() can't sum strings");
  for (const Value& item : budget.iterate(input)) total = binary(budget, "+", total, getter(item));
  return total;
}

Value reverse(Budget& budget, const Value& input, const Arguments& arguments) {
  expect_none("reverse", arguments);
  if (input.is_string()) return slice(budget, input, Value(), Value(), int64_t{-1});
  const bool keeps_list = input.sequence() != nullptr && input.sequence()->kind == SequenceKind::kIterator;
  Values items = budget.iterate(input);
  std::reverse(items.begin(), items.end());
  return keeps_list ? budget.list(std::move(items)) : budget.iterator(std::move(items));
}

Value batch(Budget& budget, const Value& input, const Arguments& arguments) {
  const Parameters p("batch", arguments, {"linecount", "fill_with"}, 1);
  const int64_t size = p.integer(0, 1);
  if (size < 1) throw Error("batch: the size must be positive");
  Values out;
  Values row;
  for (const Value& item : budget.iterate(input)) {
    if (static_cast<int64_t>(row.size()) == size) out.push_back(budget.list(std::exchange(row, {})));
    row.push_back(item);
  }
  if (!row.empty()) {
    if (!p.is_none(1)) {
      budget.charge(static_cast<size_t>(size));
      row.resize(static_cast<size_t>(size), *p.get(1));
    }
    out.push_back(budget.list(std::move(row)));
  }
  return budget.iterator(std::move(out));
}

Value groupby(Budget& budget, const Value& input, const Arguments& arguments) {
  const Parameters p("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1);
  const Getter shown = attribute_getter(budget, p.get(0), p.get(1));
  const bool case_sensitive = p.flag(2, false);
  const Getter key = [&](const Value& item) { return case_sensitive ? shown(item) : ignore_case(budget, shown(item)); };
  Values out;
  Values group;
  const auto flush = [&] {
    if (group.empty()) return;
    Value grouper = shown(group[0]);
    out.push_back(budget.tuple({std::move(grouper), budget.list(std::exchange(group, {}))}));
  };
  for (const Value& item : sorted(budget, budget.iterate(input), key, false)) {
    if (!group.empty() && !compare(budget, "==", key(group[0]), key(item))) flush();
    group.push_back(item);
  }
  flush();
  return budget.list(std::move(out));
}

Value map(Budget& budget, const Value& input, const Arguments& arguments) {
  if (!input.truthy()) return budget.iterator({});
  Values out;
  if (arguments.positional.empty()) {
    const Parameters p("map", arguments, {"attribute", "default"}, 1);
    const Getter getter = attribute_getter(budget, p.get(0), p.get(1));
    for (const Value& item : budget.iterate(input)) out.push_back(getter(item));
    return budget.iterator(std::move(out));
  }
  const Value& name = arguments.positional[0];
  if (!name.is_string()) throw Error("map needs the name of a filter");
  const Arguments rest{Values(arguments.positional.begin() + 1, arguments.positional.end()), arguments.named};
  for (const Value& item : budget.iterate(input)) out.push_back(apply_filter(budget, name.as_string(), item, rest));
  return budget.iterator(std::move(out));
}

/// select, reject, selectattr, rejectattr: the elements for which a test, of them or of an attribute, (does not) hold.
Value choose(Budget& budget, const Value& input, const Arguments& arguments, bool keep, bool by_attribute) {
  if (!input.truthy()) return budget.iterator({});
  size_t used = 0;
  Getter getter = attribute_getter(budget, nullptr);
  if (by_attribute) {
    if (arguments.positional.empty()) throw Error("the name of an attribute is missing");
    getter = attribute_getter(budget, &arguments.positional[used++]);
  }
  const Value* test = arguments.positional.size() > used ? &arguments.positional[used++] : nullptr;
  if (test != nullptr && !test->is_string()) throw Error("select and its like need the name of a test");
  const Arguments rest{
      Values(arguments.positional.begin() + static_cast<std::ptrdiff_t>(used), arguments.positional.end()),
      arguments.named};
  Values out;
  for (const Value& item : budget.iterate(input)) {
    const Value subject = getter(item);
    const bool holds = test == nullptr ? subject.truthy() : apply_test(budget, test->as_string(), subject, rest);
    if (holds == keep) out.push_back(item);
  }
  return budget.iterator(std::move(out));
}

template <bool keep, bool by_attribute>
Value choose_filter(Budget& budget, const Value& input, const Arguments& arguments) {
  return choose(budget, input, arguments, keep, by_attribute);
}

Value attribute(Budget& budget, const Value& input, const Arguments& arguments) {
  const Parameters p("attr", arguments, {"name"}, 1);
  if (input.dict() != nullptr) throw Error("the filter 'attr' is not supported on a dict; use value[name]");
  return get_attribute(budget, input, p.string(0));
}

const std::unordered_map<std::string_view, Filter>& filters() {
  static const std::unordered_map<std::string_view, Filter> table = {
      {"trim", trim},
      {"title", title},
      {"upper", [](Budget& b, const Value& v, const Arguments& a) { return text_method(b, v, a, "upper"); }},
      {"lower", [](Budget& b, const Value& v, const Arguments& a) { return text_method(b, v, a, "lower"); }},
      {"capitalize", [](Budget& b, const Value& v, const Arguments& a) { return text_method(b, v, a, "capitalize"); }},
      {"string", [](Budget& b, const Value& v, const Arguments&) { return v.is_string() ? v : b.text(to_str(b, v)); }},
      {"replace", replace},
      {"format", format},
      {"indent", indent},
      {"escape", escape},
      {"e", escape},
      {"safe", safe},
      {"tojson", to_json_filter},
      {"int", to_int},
      {"float", to_float},
      {"abs", absolute},
      {"round", round},
      {"default", default_value},
      {"d", default_value},
      {"length", length_filter},
      {"count", length_filter},
      {"first", first},
      {"last", last},
      {"list", list},
      {"join", join},
      {"items", items},
      {"dictsort", dictsort},
      {"sort", sort},
      {"unique", unique},
      {"min", [](Budget& b, const Value& v, const Arguments& a) { return extreme(b, v, a, false); }},
      {"max", [](Budget& b, const Value& v, const Arguments& a) { return extreme(b, v, a, true); }},
      {"sum", sum},
      {"reverse", reverse},
      {"batch", batch},
      {"groupby", groupby},
      {"map", map},
      {"select", choose_filter<true, false>},
      {"reject", choose_filter<false, false>},
      {"selectattr", choose_filter<true, true>},
      {"rejectattr", choose_filter<false, true>},
      {"attr", attribute},
  };
  return table;
}

}  // namespace

bool has_filter(std::string_view name) { return filters().count(name) > 0; }

Value apply_filter(Budget& budget, std::string_view name, const Value& input, const Arguments& arguments) {
  budget.charge(1);
  const auto found = filters().find(name);
  if (found == filters().end()) throw Error("the filter '" + std::string(name) + "' is not supported");
  return found->second(budget, input, arguments);
}

}  // namespace autoglm::tokenizer::jinja
