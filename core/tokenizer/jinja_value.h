#pragma once
/// The values of the template language: Python's None, bool, int, float, str, list, tuple, dict and what Jinja adds.
///
/// Values are immutable and shared (the sandbox that chat templates run in forbids list.append and its like), except
/// namespaces, which the Budget of one rendering owns. Inside jinja_*.cpp failures are exceptions of type Error; the
/// public functions of template.h turn them into Status.
#include <cstdint>
#include <deque>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace autoglm::tokenizer::jinja {

/// A template that is wrong or ran into its bounds. `line` is filled in by whoever knows it; 0 means not yet known.
struct Error : std::runtime_error {
  explicit Error(const std::string& message, int at_line = 0) : std::runtime_error(message), line(at_line) {}
  int line;
};

/// What a template may use up. Templates come with model folders and are not trusted.
struct Limits {
  size_t max_steps = 20'000'000;    ///< evaluation steps, elements copied and 16-byte pieces of text touched
  size_t max_output = 64u << 20;    ///< bytes of the result and of any string made on the way
  size_t max_elements = 1'000'000;  ///< elements of one list, tuple or dict
  size_t max_range = 100'000;       ///< elements of a range(), as Jinja's sandbox has it
  int max_data_depth = 200;         ///< lists and dicts inside one another
  int max_recursion = 100;          ///< macros that call macros
};

class Value;
struct Sequence;
struct Dict;
struct Namespace;
struct Loop;
struct Callable;

/// The absence of a value: prints as nothing, is false and empty; any other use fails with `message`.
struct Undefined {
  std::shared_ptr<const std::string> message;
};

/// A string; `markup` marks what `safe` and `escape` return, which escapes text that is added to it.
struct Text {
  std::shared_ptr<const std::string> bytes;
  bool markup = false;
};

class Value {
 public:
  Value() : data_(nullptr) {}                ///< None
  Value(std::nullptr_t) : data_(nullptr) {}  // NOLINT(google-explicit-constructor)
  Value(bool v) : data_(v) {}                // NOLINT(google-explicit-constructor)
  Value(int64_t v) : data_(v) {}             // NOLINT(google-explicit-constructor)
  Value(double v) : data_(v) {}              // NOLINT(google-explicit-constructor)
  Value(std::string s) : data_(Text{std::make_shared<const std::string>(std::move(s))}) {}  // NOLINT
  Value(std::string_view s) : Value(std::string(s)) {}               // NOLINT(google-explicit-constructor)
  Value(const char* s) : Value(std::string(s)) {}                    // NOLINT(google-explicit-constructor)
  Value(Undefined v) : data_(std::move(v)) {}                        // NOLINT(google-explicit-constructor)
  Value(Text v) : data_(std::move(v)) {}                             // NOLINT(google-explicit-constructor)
  Value(std::shared_ptr<const Sequence> v) : data_(std::move(v)) {}  // NOLINT(google-explicit-constructor)
  Value(std::shared_ptr<const Dict> v) : data_(std::move(v)) {}      // NOLINT(google-explicit-constructor)
  Value(std::shared_ptr<const Loop> v) : data_(std::move(v)) {}      // NOLINT(google-explicit-constructor)
  Value(std::shared_ptr<const Callable> v) : data_(std::move(v)) {}  // NOLINT(google-explicit-constructor)
  Value(Namespace* v) : data_(v) {}                                  // NOLINT(google-explicit-constructor)

  bool is_none() const { return std::holds_alternative<std::nullptr_t>(data_); }
  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_bool() || is_int() || is_float(); }
  bool is_integral() const { return is_bool() || is_int(); }
  bool is_string() const { return std::holds_alternative<Text>(data_); }
  bool is_markup() const { return is_string() && std::get<Text>(data_).markup; }

  bool as_bool() const { return std::get<bool>(data_); }
  int64_t as_int() const {
    return is_bool() ? int64_t{as_bool()} : std::get<int64_t>(data_);
  }  ///< of an integral value
  double as_double() const { return is_float() ? std::get<double>(data_) : static_cast<double>(as_int()); }
  const std::string& as_string() const { return *std::get<Text>(data_).bytes; }
  const std::string& undefined_message() const { return *std::get<Undefined>(data_).message; }

  /// The object, or null when the value is of another type.
  const Sequence* sequence() const { return pointer<Sequence>(); }
  std::shared_ptr<const Sequence> shared_sequence() const { return std::get<std::shared_ptr<const Sequence>>(data_); }
  const Dict* dict() const { return pointer<Dict>(); }
  const Loop* loop() const { return pointer<Loop>(); }
  const Callable* callable() const { return pointer<Callable>(); }
  Namespace* name_space() const {
    const auto* p = std::get_if<Namespace*>(&data_);
    return p == nullptr ? nullptr : *p;
  }

  bool truthy() const;
  /// Python's name of the type, for messages: "str", "dict", ...
  std::string_view type_name() const;
  /// How many containers lie inside one another, and how much there is in all (an estimate of the work to walk it).
  int depth() const;
  size_t weight() const;

 private:
  template <typename T>
  const T* pointer() const {
    const auto* p = std::get_if<std::shared_ptr<const T>>(&data_);
    return p == nullptr ? nullptr : p->get();
  }
  std::variant<std::nullptr_t, bool, int64_t, double, Text, Undefined, std::shared_ptr<const Sequence>,
               std::shared_ptr<const Dict>, std::shared_ptr<const Loop>, std::shared_ptr<const Callable>, Namespace*>
      data_;
};

using Values = std::vector<Value>;

/// Arguments of a call: `f(positional, ..., name=named)`.
struct Arguments {
  Values positional;
  std::vector<std::pair<std::string, Value>> named;
};

enum class SequenceKind { kList, kTuple, kRange, kIterator, kKeys, kValues, kItems };

/// Everything that is a row of values. An iterator (what `map` and its like return) and a dict view cannot be indexed.
struct Sequence {
  SequenceKind kind;
  mutable Values items;  ///< an iterator is emptied by reading it
  int depth;
  size_t weight;
};

struct ValueHash {
  size_t operator()(const Value& v) const;
};
struct ValueEqual {
  bool operator()(const Value& a, const Value& b) const;
};

/// An insertion-ordered mapping.
struct Dict {
  std::vector<std::pair<Value, Value>> items;
  std::unordered_map<Value, size_t, ValueHash, ValueEqual> index;
  int depth = 1;
  size_t weight = 1;

  /// The value under `key`, or null. Fails when the key is unhashable.
  const Value* find(const Value& key) const;
};

/// namespace(): the one thing a template can write to from inside a loop.
struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
  Value* find(std::string_view name);
};

/// The `loop` variable, at one iteration.
struct Loop {
  std::shared_ptr<const Sequence> items;
  int64_t index0;
  int64_t depth0;
};

struct Macro;  // jinja_eval.h

/// A function value: a global by name, a method of `self` by name, or a macro.
struct Callable {
  std::string name;
  Value self;
  const Macro* macro = nullptr;
};

/// What one rendering has used up and owns. Not thread-safe: one per rendering.
class Budget {
 public:
  explicit Budget(const Limits& limits) : limits_(limits) {}
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

  const Limits& limits() const { return limits_; }

  void charge(size_t steps);       ///< fails when max_steps are used up
  void charge_text(size_t bytes);  ///< checks a string of that size, about to be made, and charges it
  void append(std::string& out, std::string_view s);  ///< `out += s`, checked and charged
  void charge_search(size_t size, size_t needle);     ///< for looking for `needle` bytes in `size` bytes
  Value text(std::string s);                          ///< a string value, charged
  Value sequence(SequenceKind kind, Values items);    ///< checks length and depth, charges
  Value list(Values items) { return sequence(SequenceKind::kList, std::move(items)); }
  Value tuple(Values items) { return sequence(SequenceKind::kTuple, std::move(items)); }
  Value iterator(Values items) { return sequence(SequenceKind::kIterator, std::move(items)); }
  Value dict(const std::vector<std::pair<Value, Value>>& items);  ///< later duplicates win, at the earlier place
  Namespace* name_space();

  /// The elements that iterating over `v` gives; fails when it cannot be iterated.
  Values iterate(const Value& v);

  /// JSON as Python's json.loads reads it.
  Value from_json(const nlohmann::ordered_json& json, int depth = 0);

 private:
  Limits limits_;
  size_t steps_ = 0;
  std::deque<Namespace> namespaces_;
};

/// Fails when too many keys share the bucket of `key`: a table that was made to be slow.
template <typename Table>
void check_bucket(const Table& table, const Value& key) {
  if (table.bucket_size(table.bucket(key)) > 64) throw Error("the keys of a dict or set collide");
}

/// Python's str() and repr(); bounded by max_output.
std::string to_str(Budget& budget, const Value& v);
std::string to_repr(Budget& budget, const Value& v);

/// Python's == and <. `less` fails on types that have no order.
bool equal(const Value& a, const Value& b);
bool less(const Value& a, const Value& b);

Value undefined(std::string message);

}  // namespace autoglm::tokenizer::jinja
