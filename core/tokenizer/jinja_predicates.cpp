// The tests: `value is name(arguments)`.
#include <unordered_map>

#include "core/tokenizer/jinja_arguments.h"
#include "core/tokenizer/jinja_filters.h"
#include "core/tokenizer/jinja_operators.h"
#include "core/tokenizer/jinja_text.h"

namespace autoglm::tokenizer::jinja {
namespace {

using Test = bool (*)(Budget&, const Value&, const Arguments&);

template <bool (*holds)(const Value&)>
bool unary(Budget&, const Value& v, const Arguments& arguments) {
  expect_none("the test", arguments);
  return holds(v);
}

const Value& operand(const Arguments& arguments) { return *Parameters("the test", arguments, {"other"}, 1).get(0); }

bool remainder_is(Budget& budget, const Value& v, int64_t divisor, int64_t rest) {
  return equal(binary(budget, "%", v, divisor), rest);
}

bool same_object(const Value& a, const Value& b) {
  if (a.type_name() != b.type_name()) return false;
  if (a.sequence() != nullptr) return a.sequence() == b.sequence();
  if (a.dict() != nullptr) return a.dict() == b.dict();
  return equal(a, b);
}

bool is_defined(const Value& v) { return !v.is_undefined(); }
bool is_undefined(const Value& v) { return v.is_undefined(); }
bool is_none(const Value& v) { return v.is_none(); }
bool is_boolean(const Value& v) { return v.is_bool(); }
bool is_true(const Value& v) { return v.is_bool() && v.as_bool(); }
bool is_false(const Value& v) { return v.is_bool() && !v.as_bool(); }
bool is_integer(const Value& v) { return v.is_int(); }
bool is_float(const Value& v) { return v.is_float(); }
bool is_number(const Value& v) { return v.is_number(); }
bool is_string(const Value& v) { return v.is_string(); }
bool is_mapping(const Value& v) { return v.dict() != nullptr; }
bool is_callable(const Value& v) { return v.is_undefined() || v.callable() != nullptr || v.loop() != nullptr; }
bool is_escaped(const Value& v) { return v.is_markup(); }

bool is_sequence(const Value& v) {
  const Sequence* s = v.sequence();
  const bool indexable = s != nullptr && (s->kind == SequenceKind::kList || s->kind == SequenceKind::kTuple ||
                                          s->kind == SequenceKind::kRange);
  return v.is_undefined() || v.is_string() || indexable || v.dict() != nullptr;
}

bool is_iterable(const Value& v) {
  return v.is_undefined() || v.is_string() || v.sequence() != nullptr || v.dict() != nullptr || v.loop() != nullptr;
}

bool is_cased(Budget& budget, const Value& v, const char* property) {
  return text::is_all(to_str(budget, v), property);
}

/// The comparison tests share one function; `==` and its spellings differ in the operator alone.
template <char first, char second>
bool comparison(Budget& budget, const Value& v, const Arguments& arguments) {
  const char op[] = {first, second, '\0'};
  return compare(budget, op, v, operand(arguments));
}

const std::unordered_map<std::string_view, Test>& tests() {
  static const std::unordered_map<std::string_view, Test> table = {
      {"defined", unary<is_defined>},
      {"undefined", unary<is_undefined>},
      {"none", unary<is_none>},
      {"boolean", unary<is_boolean>},
      {"true", unary<is_true>},
      {"false", unary<is_false>},
      {"integer", unary<is_integer>},
      {"float", unary<is_float>},
      {"number", unary<is_number>},
      {"string", unary<is_string>},
      {"mapping", unary<is_mapping>},
      {"sequence", unary<is_sequence>},
      {"iterable", unary<is_iterable>},
      {"callable", unary<is_callable>},
      {"escaped", unary<is_escaped>},
      {"odd", [](Budget& b, const Value& v, const Arguments&) { return remainder_is(b, v, 2, 1); }},
      {"even", [](Budget& b, const Value& v, const Arguments&) { return remainder_is(b, v, 2, 0); }},
      {"divisibleby",
       [](Budget& b, const Value& v, const Arguments& a) { return equal(binary(b, "%", v, operand(a)), int64_t{0}); }},
      {"lower", [](Budget& b, const Value& v, const Arguments&) { return is_cased(b, v, "islower"); }},
      {"upper", [](Budget& b, const Value& v, const Arguments&) { return is_cased(b, v, "isupper"); }},
      {"sameas", [](Budget&, const Value& v, const Arguments& a) { return same_object(v, operand(a)); }},
      {"in", [](Budget& b, const Value& v, const Arguments& a) { return contains(b, v, operand(a)); }},
      {"eq", comparison<'=', '='>},
      {"equalto", comparison<'=', '='>},
      {"ne", comparison<'!', '='>},
      {"lt", comparison<'<', '\0'>},
      {"lessthan", comparison<'<', '\0'>},
      {"le", comparison<'<', '='>},
      {"gt", comparison<'>', '\0'>},
      {"greaterthan", comparison<'>', '\0'>},
      {"ge", comparison<'>', '='>},
      // Only reachable as names given to select() and its like.
      {"==", comparison<'=', '='>},
      {"!=", comparison<'!', '='>},
      {"<", comparison<'<', '\0'>},
      {"<=", comparison<'<', '='>},
      {">", comparison<'>', '\0'>},
      {">=", comparison<'>', '='>},
      {"filter", [](Budget&, const Value& v, const Arguments&) { return v.is_string() && has_filter(v.as_string()); }},
      {"test", [](Budget&, const Value& v, const Arguments&) { return v.is_string() && has_test(v.as_string()); }},
  };
  return table;
}

}  // namespace

bool has_test(std::string_view name) { return tests().count(name) > 0; }

bool apply_test(Budget& budget, std::string_view name, const Value& subject, const Arguments& arguments) {
  budget.charge(1);
  const auto found = tests().find(name);
  if (found == tests().end()) throw Error("the test '" + std::string(name) + "' is not supported");
  return found->second(budget, subject, arguments);
}

}  // namespace autoglm::tokenizer::jinja
