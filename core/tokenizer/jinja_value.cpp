#include "core/tokenizer/jinja_value.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "core/tokenizer/jinja_text.h"

namespace autoglm::tokenizer::jinja {
namespace {

constexpr size_t kBytesPerStep = 16;

std::string quoted_type(const Value& v) { return "'" + std::string(v.type_name()) + "'"; }

/// Writes str()/repr() into one string that may not outgrow the budget.
class Printer {
 public:
  explicit Printer(Budget& budget) : budget_(budget) {}

  void print(const Value& v, bool quote, int depth = 0) {
    if (depth > budget_.limits().max_data_depth)
      throw Error("a value contains itself or is nested too deeply to print");
    budget_.charge(1);
    if (v.is_undefined()) {
      append(quote ? "Undefined" : "");
    } else if (v.is_none()) {
      append("None");
    } else if (v.is_bool()) {
      append(v.as_bool() ? "True" : "False");
    } else if (v.is_int()) {
      append(std::to_string(v.as_int()));
    } else if (v.is_float()) {
      append(text::repr(v.as_double()));
    } else if (v.is_string()) {
      print_string(v, quote);
    } else if (const Sequence* s = v.sequence()) {
      print_sequence(*s, depth);
    } else if (const Dict* d = v.dict()) {
      print_pairs(d->items, depth);
    } else if (Namespace* n = v.name_space()) {
      std::vector<std::pair<Value, Value>> pairs;
      for (const auto& [name, value] : n->attributes) pairs.emplace_back(name, value);
      append("<Namespace ");
      print_pairs(pairs, depth);
      append(">");
    } else if (const Loop* l = v.loop()) {
      append("<LoopContext " + std::to_string(l->index0 + 1) + "/" + std::to_string(l->items->items.size()) + ">");
    } else if (v.callable()->macro != nullptr) {
      append("<Macro " + text::repr(v.callable()->name) + ">");
    } else {
      throw Error("printing the function '" + v.callable()->name + "' is not supported");
    }
  }

  std::string take() { return std::move(out_); }

 private:
  void append(std::string_view s) { budget_.append(out_, s); }

  void print_string(const Value& v, bool quote) {
    if (!quote) return append(v.as_string());
    append(v.is_markup() ? "Markup(" + text::repr(v.as_string()) + ")" : text::repr(v.as_string()));
  }

  void print_pairs(const std::vector<std::pair<Value, Value>>& pairs, int depth) {
    append("{");
    for (size_t i = 0; i < pairs.size(); ++i) {
      if (i > 0) append(", ");
      print(pairs[i].first, true, depth + 1);
      append(": ");
      print(pairs[i].second, true, depth + 1);
    }
    append("}");
  }

  void print_items(const Values& items, int depth) {
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) append(", ");
      print(items[i], true, depth + 1);
    }
  }

  void print_sequence(const Sequence& s, int depth) {
    switch (s.kind) {
      case SequenceKind::kList:
        append("[");
        print_items(s.items, depth);
        return append("]");
      case SequenceKind::kTuple:
        append("(");
        print_items(s.items, depth);
        return append(s.items.size() == 1 ? ",)" : ")");
      case SequenceKind::kKeys:
      case SequenceKind::kValues:
      case SequenceKind::kItems:
        append(s.kind == SequenceKind::kKeys     ? "dict_keys(["
               : s.kind == SequenceKind::kValues ? "dict_values(["
                                                 : "dict_items([");
        print_items(s.items, depth);
        return append("])");
      case SequenceKind::kRange: throw Error("printing a range is not supported; use range(...)|list");
      case SequenceKind::kIterator: throw Error("printing a generator is not supported; add |list");
    }
  }

  Budget& budget_;
  std::string out_;
};

bool equal_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return a.as_int() == b.as_int();
  return static_cast<long double>(a.is_float() ? a.as_double() : static_cast<long double>(a.as_int())) ==
         static_cast<long double>(b.is_float() ? b.as_double() : static_cast<long double>(b.as_int()));
}

bool less_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return a.as_int() < b.as_int();
  return (a.is_float() ? static_cast<long double>(a.as_double()) : static_cast<long double>(a.as_int())) <
         (b.is_float() ? static_cast<long double>(b.as_double()) : static_cast<long double>(b.as_int()));
}

bool equal_dicts(const Dict& a, const Dict& b) {
  if (a.items.size() != b.items.size()) return false;
  return std::all_of(a.items.begin(), a.items.end(), [&](const auto& item) {
    const Value* other = b.find(item.first);
    return other != nullptr && equal(item.second, *other);
  });
}

bool comparable_sequences(const Sequence& a, const Sequence& b) {
  return a.kind == b.kind && (a.kind == SequenceKind::kList || a.kind == SequenceKind::kTuple);
}

size_t combine(size_t seed, size_t hash) { return seed * 1000003u ^ hash; }

/// std::hash leaves whole numbers as they are, so that multiples of the table's size would share one bucket.
size_t hash_integer(int64_t v) {
  auto mixed = static_cast<uint64_t>(v) * 0x9E3779B97F4A7C15u;
  mixed ^= mixed >> 32;
  return mixed * 0xD6E8FEB86659FD93u;
}

}  // namespace

bool Value::truthy() const {
  if (is_none() || is_undefined()) return false;
  if (is_bool()) return as_bool();
  if (is_int()) return as_int() != 0;
  if (is_float()) return as_double() != 0;
  if (is_string()) return !as_string().empty();
  if (const Sequence* s = sequence()) return s->kind == SequenceKind::kIterator || !s->items.empty();
  if (const Dict* d = dict()) return !d->items.empty();
  if (const Loop* l = loop()) return !l->items->items.empty();
  return true;
}

std::string_view Value::type_name() const {
  if (is_none()) return "NoneType";
  if (is_undefined()) return "Undefined";
  if (is_bool()) return "bool";
  if (is_int()) return "int";
  if (is_float()) return "float";
  if (is_string()) return is_markup() ? "Markup" : "str";
  if (const Sequence* s = sequence()) {
    switch (s->kind) {
      case SequenceKind::kList: return "list";
      case SequenceKind::kTuple: return "tuple";
      case SequenceKind::kRange: return "range";
      case SequenceKind::kIterator: return "generator";
      case SequenceKind::kKeys: return "dict_keys";
      case SequenceKind::kValues: return "dict_values";
      case SequenceKind::kItems: return "dict_items";
    }
  }
  if (dict() != nullptr) return "dict";
  if (loop() != nullptr) return "LoopContext";
  if (name_space() != nullptr) return "Namespace";
  return callable()->macro != nullptr ? "Macro" : "function";
}

int Value::depth() const {
  if (const Sequence* s = sequence()) return s->depth;
  if (const Dict* d = dict()) return d->depth;
  if (const Loop* l = loop()) return l->items->depth + 1;
  if (const Callable* c = callable()) return c->self.depth() + 1;
  return 0;
}

size_t Value::weight() const {
  if (is_string()) return 1 + as_string().size() / kBytesPerStep;
  if (const Sequence* s = sequence()) return s->weight;
  if (const Dict* d = dict()) return d->weight;
  return 1;
}

size_t ValueHash::operator()(const Value& v) const {
  if (v.is_integral()) return hash_integer(v.as_int());
  if (v.is_float()) {
    const double d = v.as_double();
    const bool integral = d == std::floor(d) && std::abs(d) < 9e15;  // 1.0 and 1 are one key
    return integral ? hash_integer(static_cast<int64_t>(d)) : std::hash<double>()(d);
  }
  if (v.is_string()) return std::hash<std::string>()(v.as_string());
  if (v.is_none()) return 1;
  if (v.is_undefined()) return 2;
  const Sequence* s = v.sequence();
  if (s != nullptr && s->kind == SequenceKind::kTuple) {
    size_t hash = s->items.size();
    for (const Value& item : s->items) hash = combine(hash, (*this)(item));
    return hash;
  }
  if (v.name_space() != nullptr) return std::hash<const void*>()(v.name_space());
  if (v.loop() != nullptr || v.callable() != nullptr) return 3;
  throw Error("unhashable type: " + quoted_type(v));
}

bool ValueEqual::operator()(const Value& a, const Value& b) const { return equal(a, b); }

const Value* Dict::find(const Value& key) const {
  const auto found = index.find(key);
  return found == index.end() ? nullptr : &items[found->second].second;
}

Value* Namespace::find(std::string_view name) {
  for (auto& [key, value] : attributes) {
    if (key == name) return &value;
  }
  return nullptr;
}

void Budget::charge(size_t steps) {
  if (steps > limits_.max_steps - steps_) {
    steps_ = limits_.max_steps;
    throw Error("the template ran for more than " + std::to_string(limits_.max_steps) + " steps and was stopped");
  }
  steps_ += steps;
}

void Budget::charge_text(size_t bytes) {
  if (bytes > limits_.max_output) {
    throw Error("the template made a text of more than " + std::to_string(limits_.max_output) +
                " bytes and was stopped");
  }
  charge(bytes / kBytesPerStep);
}

void Budget::append(std::string& out, std::string_view s) {
  if (s.size() > limits_.max_output - std::min(out.size(), limits_.max_output)) charge_text(limits_.max_output + 1);
  charge(s.size() / kBytesPerStep);
  out += s;
}

void Budget::charge_search(size_t size, size_t needle) {
  charge(size / kBytesPerStep * (1 + needle / 64));  // every position may match but for the last byte
}

Value Budget::text(std::string s) {
  charge_text(s.size());
  return Value(std::move(s));
}

Value Budget::sequence(SequenceKind kind, Values items) {
  if (items.size() > limits_.max_elements) {
    throw Error("the template made a list of more than " + std::to_string(limits_.max_elements) +
                " elements and was stopped");
  }
  charge(1 + items.size());
  int depth = 1;
  size_t weight = 1;
  for (const Value& item : items) {
    depth = std::max(depth, item.depth() + 1);
    weight += std::min(item.weight(), limits_.max_steps);
  }
  if (depth > limits_.max_data_depth) {
    throw Error("the template nests values more than " + std::to_string(limits_.max_data_depth) + " deep");
  }
  weight = std::min(weight, limits_.max_steps + 1);
  return Value(std::make_shared<const Sequence>(Sequence{kind, std::move(items), depth, weight}));
}

Value Budget::dict(const std::vector<std::pair<Value, Value>>& items) {
  if (items.size() > limits_.max_elements) throw Error("the template made a dict that is too large and was stopped");
  auto dict = std::make_shared<Dict>();
  for (const auto& [key, value] : items) {
    charge(1 + key.weight());
    dict->depth = std::max({dict->depth, key.depth() + 1, value.depth() + 1});
    dict->weight =
        std::min(dict->weight + key.weight() + std::min(value.weight(), limits_.max_steps), limits_.max_steps + 1);
    const auto [at, inserted] = dict->index.try_emplace(key, dict->items.size());
    check_bucket(dict->index, at->first);
    if (inserted) {
      dict->items.emplace_back(key, value);
    } else {
      dict->items[at->second].second = value;
    }
  }
  if (dict->depth > limits_.max_data_depth) {
    throw Error("the template nests values more than " + std::to_string(limits_.max_data_depth) + " deep");
  }
  return Value(std::shared_ptr<const Dict>(std::move(dict)));
}

Namespace* Budget::name_space() {
  charge(16);
  return &namespaces_.emplace_back();
}

Values Budget::iterate(const Value& v) {
  Values out;
  if (v.is_undefined()) return out;
  if (v.is_string()) {
    charge(v.as_string().size());
    if (v.as_string().size() > 4 * limits_.max_elements)
      throw Error("a text is too long to be walked character by character");
    for (const std::string_view character : text::characters(v.as_string())) out.emplace_back(character);
    return out;
  }
  if (const Sequence* s = v.sequence()) {
    charge(s->items.size());
    if (s->kind == SequenceKind::kIterator) return std::exchange(s->items, {});
    return s->items;
  }
  if (const Dict* d = v.dict()) {
    charge(d->items.size());
    for (const auto& [key, value] : d->items) out.push_back(key);
    return out;
  }
  throw Error(quoted_type(v) + " object is not iterable");
}

Value Budget::from_json(const nlohmann::ordered_json& json, int depth) {
  using Kind = nlohmann::ordered_json::value_t;
  if (depth > limits_.max_data_depth) throw Error("the data given to the template is nested too deeply");
  switch (json.type()) {
    case Kind::boolean: return json.get<bool>();
    case Kind::number_integer: return json.get<int64_t>();
    case Kind::number_unsigned: {
      const auto v = json.get<uint64_t>();
      if (v > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        throw Error("the data given to the template holds an integer beyond 64 bits: " + std::to_string(v));
      }
      return static_cast<int64_t>(v);
    }
    case Kind::number_float: return json.get<double>();
    case Kind::string: return text(json.get_ref<const std::string&>());
    case Kind::array: {
      Values items;
      items.reserve(json.size());
      for (const auto& item : json) items.push_back(from_json(item, depth + 1));
      return list(std::move(items));
    }
    case Kind::object: {
      std::vector<std::pair<Value, Value>> items;
      items.reserve(json.size());
      for (const auto& [key, value] : json.items()) items.emplace_back(key, from_json(value, depth + 1));
      return dict(items);
    }
    default: return nullptr;
  }
}

std::string to_str(Budget& budget, const Value& v) {
  if (v.is_string()) return v.as_string();
  Printer printer(budget);
  printer.print(v, false);
  return printer.take();
}

std::string to_repr(Budget& budget, const Value& v) {
  Printer printer(budget);
  printer.print(v, true);
  return printer.take();
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return equal_numbers(a, b);
  if (a.is_string() && b.is_string()) return a.as_string() == b.as_string();
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (a.sequence() != nullptr && b.sequence() != nullptr) {
    const Sequence& x = *a.sequence();
    const Sequence& y = *b.sequence();
    if (&x == &y) return true;
    if (x.kind != y.kind || x.kind == SequenceKind::kIterator || x.kind == SequenceKind::kValues) return false;
    return std::equal(x.items.begin(), x.items.end(), y.items.begin(), y.items.end(), equal);
  }
  if (a.dict() != nullptr && b.dict() != nullptr) return equal_dicts(*a.dict(), *b.dict());
  if (a.name_space() != nullptr) return a.name_space() == b.name_space();
  if (a.loop() != nullptr) return a.loop() == b.loop();
  if (a.callable() != nullptr) return a.callable() == b.callable();
  return false;
}

bool less(const Value& a, const Value& b) {
  if (a.is_undefined()) throw Error(a.undefined_message());
  if (b.is_undefined()) throw Error(b.undefined_message());
  if (a.is_number() && b.is_number()) return less_numbers(a, b);
  if (a.is_string() && b.is_string()) return a.as_string() < b.as_string();  // byte order is code point order
  if (a.sequence() != nullptr && b.sequence() != nullptr && comparable_sequences(*a.sequence(), *b.sequence())) {
    const Values& x = a.sequence()->items;
    const Values& y = b.sequence()->items;
    const auto [i, j] = std::mismatch(x.begin(), x.end(), y.begin(), y.end(), equal);
    if (i == x.end() || j == y.end()) return x.size() < y.size();
    return less(*i, *j);
  }
  throw Error("'<' not supported between instances of " + quoted_type(a) + " and " + quoted_type(b));
}

Value undefined(std::string message) { return Undefined{std::make_shared<const std::string>(std::move(message))}; }

}  // namespace autoglm::tokenizer::jinja
