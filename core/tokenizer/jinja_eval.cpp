#include "core/tokenizer/jinja_eval.h"

#include <algorithm>
#include <array>
#include <ctime>

#include "core/tokenizer/jinja_arguments.h"
#include "core/tokenizer/jinja_filters.h"
#include "core/tokenizer/jinja_methods.h"
#include "core/tokenizer/jinja_operators.h"
#include "core/tokenizer/jinja_text.h"

namespace autoglm::tokenizer::jinja {
namespace {

constexpr int kMaxDepth = 2000;  // evaluate() and execute() inside one another, about 1 KiB of stack each

bool is_global(std::string_view name) {
  static constexpr std::array<std::string_view, 8> kNames = {"range",        "dict",   "namespace", "raise_exception",
                                                             "strftime_now", "cycler", "joiner",    "lipsum"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

/// Adds one to a counter for as long as it lives; fails above the limit.
class Deeper {
 public:
  Deeper(int& depth, int limit, const char* message) : depth_(depth) {
    if (depth_ >= limit) throw Error(message);
    ++depth_;
  }
  ~Deeper() { --depth_; }
  Deeper(const Deeper&) = delete;
  Deeper& operator=(const Deeper&) = delete;

 private:
  int& depth_;
};

Value range(Budget& budget, const Arguments& arguments) {
  const Parameters p("range", arguments, {"start", "stop", "step"}, 1);
  const int64_t start = p.given(1) ? p.integer(0, 0) : 0;
  const int64_t stop = p.given(1) ? p.integer(1, 0) : p.integer(0, 0);
  const int64_t step = p.integer(2, 1);
  if (step == 0) throw Error("range() step must not be zero");
  Values items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (items.size() == budget.limits().max_range) {
      throw Error("range() of more than " + std::to_string(budget.limits().max_range) + " elements");
    }
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return budget.sequence(SequenceKind::kRange, std::move(items));
}

Value strftime_now(Budget& budget, const Arguments& arguments) {
  const Parameters p("strftime_now", arguments, {"format"}, 1);
  const std::string& format = p.string(0);
  if (format.empty()) return "";
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::string out(format.size() * 16 + 1024, '\0');
  // A leading space keeps an empty result apart from one that does not fit.
  const size_t size = std::strftime(out.data(), out.size(), (" " + format).c_str(), &local);
  if (size == 0) throw Error("strftime_now: the format makes too long a text");
  return budget.text(out.substr(1, size - 1));
}

}  // namespace

Value* Scope::find(std::string_view name) {
  for (auto& [key, value] : names) {
    if (key == name) return &value;
  }
  return nullptr;
}

void Scope::set(std::string_view name, Value value) {
  if (Value* found = find(name)) {
    *found = std::move(value);
  } else {
    names.emplace_back(name, std::move(value));
  }
}

class Interpreter::Level {
 public:
  Level(Interpreter& interpreter, Scope* parent) : interpreter_(interpreter), previous_(interpreter.scope_) {
    scope_->parent = parent;
    interpreter_.scope_ = scope_.get();
  }
  explicit Level(Interpreter& interpreter) : Level(interpreter, interpreter.scope_) {}
  ~Level() {
    interpreter_.scope_ = previous_;
    if (scope_->captured) interpreter_.kept_scopes_.push_back(std::move(scope_));
  }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

 private:
  Interpreter& interpreter_;
  Scope* previous_;
  std::unique_ptr<Scope> scope_ = std::make_unique<Scope>();
};

Interpreter::Interpreter(Budget& budget, std::unordered_map<std::string, Value> variables)
    : budget_(budget), variables_(std::move(variables)) {}

std::string Interpreter::run(const Block& program) {
  try {
    std::string out;
    output_ = &out;
    execute(program);
    return out;
  } catch (const Error& error) {
    throw Error(error.what(), error.line == 0 ? line_ : error.line);
  }
}

// ---- statements

Interpreter::Flow Interpreter::execute(const Block& block) {
  const Deeper deeper(depth_, kMaxDepth, "the template recurses too deeply");
  for (const Statement& statement : block) {
    const Flow flow = execute(statement);
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::execute(const Statement& s) {
  line_ = s.line;
  budget_.charge(1);
  using Kind = Statement::Kind;
  switch (s.kind) {
    case Kind::kText: print(s.text); break;
    case Kind::kOutput: print(to_str(budget_, evaluate(*s.expression))); break;
    case Kind::kIf:
      for (const Statement::Branch& branch : s.branches) {
        if (branch.condition == nullptr || evaluate(*branch.condition).truthy()) return execute(branch.body);
      }
      break;
    case Kind::kFor: return execute_for(s);
    case Kind::kSet: assign(s.target, evaluate(*s.expression)); break;
    case Kind::kSetBlock: {
      std::string text;
      const Flow flow = capture(s.body, text);
      if (flow != Flow::kNormal) return flow;
      const Value value(std::move(text));
      assign(s.target, s.expression == nullptr ? value : evaluate_filter(*s.expression, &value));
      break;
    }
    case Kind::kMacro: define_macro(s); break;
    case Kind::kCallBlock: return execute_call_block(s);
    case Kind::kFilterBlock: {
      std::string text;
      const Flow flow = capture(s.body, text);
      if (flow != Flow::kNormal) return flow;
      const Value value(std::move(text));
      const Value filtered = evaluate_filter(*s.expression, &value);
      if (!filtered.is_string())
        throw Error("a filter block must end in text, not in '" + std::string(filtered.type_name()) + "'");
      print(filtered.as_string());
      break;
    }
    case Kind::kWith: return execute_with(s);
    case Kind::kScope: {
      const Level level(*this);
      return execute(s.body);
    }
    case Kind::kBreak: return Flow::kBreak;
    case Kind::kContinue: return Flow::kContinue;
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::execute_for(const Statement& s) {
  Values items = budget_.iterate(evaluate(*s.expression));
  if (s.condition != nullptr) {
    Values kept;
    for (const Value& item : items) {
      const Level level(*this);
      assign(s.target, item);
      if (evaluate(*s.condition).truthy()) kept.push_back(item);
    }
    items = std::move(kept);
  }
  const Value row = budget_.tuple(std::move(items));
  const std::shared_ptr<const Sequence> shared = row.shared_sequence();
  bool completed = false;  // jinja2 runs the else branch when no iteration reached its end, be it for break or continue
  for (size_t i = 0; i < shared->items.size(); ++i) {
    budget_.charge(8);  // a scope and a loop object are made
    const Level level(*this);
    scope_->set("loop", std::make_shared<const Loop>(Loop{shared, static_cast<int64_t>(i), 0}));
    assign(s.target, shared->items[i]);
    const Flow flow = execute(s.body);
    line_ = s.line;
    if (flow == Flow::kBreak) break;
    completed = completed || flow == Flow::kNormal;
  }
  if (completed) return Flow::kNormal;
  const Level level(*this);
  return execute(s.otherwise);
}

Interpreter::Flow Interpreter::capture(const Block& block, std::string& text) {
  const Level level(*this);
  std::string* outer = std::exchange(output_, &text);
  const Flow flow = execute(block);  // on an Error the rendering ends, and output_ with it
  output_ = outer;
  return flow;
}

void Interpreter::define_macro(const Statement& s) {
  budget_.charge(16);
  for (Scope* scope = scope_; scope != nullptr; scope = scope->parent) scope->captured = true;
  const Macro& macro = macros_.emplace_back(Macro{&s, scope_});
  scope_->set(s.signature.name, std::make_shared<const Callable>(Callable{s.signature.name, Value(), &macro}));
}

Interpreter::Flow Interpreter::execute_call_block(const Statement& s) {
  budget_.charge(16);
  for (Scope* scope = scope_; scope != nullptr; scope = scope->parent) scope->captured = true;
  const Macro& macro = macros_.emplace_back(Macro{&s, scope_});
  const Value caller = std::make_shared<const Callable>(Callable{"caller", Value(), &macro});
  print(to_str(budget_, evaluate_call(*s.expression, &caller)));
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::execute_with(const Statement& s) {
  Values values;
  for (const auto& [target, expression] : s.bindings) values.push_back(evaluate(*expression));
  const Level level(*this);
  for (size_t i = 0; i < values.size(); ++i) assign(s.bindings[i].first, values[i]);
  return execute(s.body);
}

void Interpreter::assign(const Target& target, const Value& value) {
  switch (target.kind) {
    case Target::Kind::kName: scope_->set(target.name, value); break;
    case Target::Kind::kAttribute: {
      Expression name;
      name.kind = Expression::Kind::kName;
      name.line = target.line;
      name.name = target.name;
      Namespace* ns = evaluate_name(name).name_space();
      if (ns == nullptr)
        throw Error("cannot assign attribute on non-namespace object '" + target.name + "'", target.line);
      if (target.attribute.starts_with('_')) {
        throw Error("chat templates cannot store underscore-prefixed attributes on a namespace: '" + target.attribute +
                    "'");
      }
      if (Value* found = ns->find(target.attribute)) {
        *found = value;
      } else {
        budget_.charge(ns->attributes.size());
        ns->attributes.emplace_back(target.attribute, value);
      }
      break;
    }
    case Target::Kind::kTuple: {
      const Values values = budget_.iterate(value);
      if (values.size() != target.parts.size()) {
        throw Error("cannot unpack " + std::to_string(values.size()) + " values into " +
                        std::to_string(target.parts.size()) + " names",
                    target.line);
      }
      for (size_t i = 0; i < values.size(); ++i) assign(target.parts[i], values[i]);
      break;
    }
  }
}

void Interpreter::print(std::string_view text) { budget_.append(*output_, text); }

// ---- expressions

Value Interpreter::evaluate(const Expression& e) {
  const Deeper deeper(depth_, kMaxDepth, "the template recurses too deeply");
  budget_.charge(1);
  using Kind = Expression::Kind;
  switch (e.kind) {
    case Kind::kConstant: return e.constant;
    case Kind::kName: return evaluate_name(e);
    case Kind::kList:
    case Kind::kTuple: return evaluate_row(e);
    case Kind::kDict: return evaluate_dict(e);
    case Kind::kAttribute: {
      const Value object = evaluate(*e.operands[0]);
      line_ = e.line;
      return get_attribute(budget_, object, e.name);
    }
    case Kind::kItem: {
      const Value object = evaluate(*e.operands[0]);
      const Value key = evaluate(*e.operands[1]);
      line_ = e.line;
      return get_item(budget_, object, key);
    }
    case Kind::kSlice: return evaluate_slice(e);
    case Kind::kCall: return evaluate_call(e);
    case Kind::kFilter: return evaluate_filter(e);
    case Kind::kTest: {
      const Value subject = evaluate(*e.operands[0]);
      const Arguments arguments = evaluate_arguments(e.arguments);
      line_ = e.line;
      return apply_test(budget_, e.name, subject, arguments);
    }
    case Kind::kUnary: return evaluate_unary(e);
    case Kind::kBinary: return evaluate_binary(e);
    case Kind::kConcat: return evaluate_concat(e);
    case Kind::kCompare: return evaluate_compare(e);
    case Kind::kTernary: return evaluate_ternary(e);
  }
  return Value();
}

Value Interpreter::evaluate_name(const Expression& e) {
  for (Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    budget_.charge(scope->names.size() / 8);
    if (const Value* found = scope->find(e.name)) return *found;
  }
  if (const auto found = variables_.find(e.name); found != variables_.end()) return found->second;
  if (is_global(e.name)) return std::make_shared<const Callable>(Callable{e.name, Value(), nullptr});
  return undefined(text::repr(e.name) + " is undefined");
}

Value Interpreter::evaluate_row(const Expression& e) {
  Values items;
  items.reserve(e.operands.size());
  for (const ExpressionPtr& operand : e.operands) items.push_back(evaluate(*operand));
  return budget_.sequence(e.kind == Expression::Kind::kList ? SequenceKind::kList : SequenceKind::kTuple,
                          std::move(items));
}

Value Interpreter::evaluate_dict(const Expression& e) {
  std::vector<std::pair<Value, Value>> items;
  for (size_t i = 0; i + 1 < e.operands.size(); i += 2) {
    Value key = evaluate(*e.operands[i]);
    items.emplace_back(std::move(key), evaluate(*e.operands[i + 1]));
  }
  return budget_.dict(items);
}

Value Interpreter::evaluate_slice(const Expression& e) {
  std::array<Value, 4> parts;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (e.operands[i] != nullptr) parts[i] = evaluate(*e.operands[i]);
  }
  line_ = e.line;
  return slice(budget_, parts[0], parts[1], parts[2], parts[3]);
}

Value Interpreter::evaluate_unary(const Expression& e) {
  Value v = evaluate(*e.operands[0]);
  line_ = e.line;
  if (e.name == "not") return !v.truthy();
  if (e.name == "-" || !v.is_number()) return negate(v);  // which fails for what is no number
  return v.is_bool() ? Value(v.as_int()) : v;
}

Value Interpreter::evaluate_binary(const Expression& e) {
  Value left = evaluate(*e.operands[0]);
  if (e.name == "and") return left.truthy() ? evaluate(*e.operands[1]) : left;
  if (e.name == "or") return left.truthy() ? left : evaluate(*e.operands[1]);
  const Value right = evaluate(*e.operands[1]);
  line_ = e.line;
  return binary(budget_, e.name, left, right);
}

Value Interpreter::evaluate_concat(const Expression& e) {
  std::string out;
  for (const ExpressionPtr& operand : e.operands) budget_.append(out, to_str(budget_, evaluate(*operand)));
  return Value(std::move(out));
}

Value Interpreter::evaluate_compare(const Expression& e) {
  Value left = evaluate(*e.operands[0]);
  for (size_t i = 0; i < e.comparisons.size(); ++i) {
    Value right = evaluate(*e.operands[i + 1]);
    line_ = e.line;
    if (!compare(budget_, e.comparisons[i], left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::evaluate_ternary(const Expression& e) {
  if (evaluate(*e.operands[1]).truthy()) return evaluate(*e.operands[0]);
  if (e.operands[2] != nullptr) return evaluate(*e.operands[2]);
  return undefined("the inline if-expression on line " + std::to_string(e.line) +
                   " evaluated to false and no else section was defined.");
}

Value Interpreter::evaluate_call(const Expression& e, const Value* caller) {
  const Value function = evaluate(*e.operands[0]);
  Arguments arguments = evaluate_arguments(e.arguments);
  if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
  line_ = e.line;
  return call(function, std::move(arguments));
}

Value Interpreter::evaluate_filter(const Expression& e, const Value* head) {
  const Deeper deeper(depth_, kMaxDepth, "the template recurses too deeply");
  // `head` is the captured text of a filter or set block: it enters the chain where that has no operand.
  const bool chained = head != nullptr && e.operands[0] != nullptr;
  const Value input = e.operands[0] == nullptr ? *head
                      : chained                ? evaluate_filter(*e.operands[0], head)
                                               : evaluate(*e.operands[0]);
  const Arguments arguments = evaluate_arguments(e.arguments);
  line_ = e.line;
  return apply_filter(budget_, e.name, input, arguments);
}

Arguments Interpreter::evaluate_arguments(const CallArguments& arguments) {
  Arguments out;
  for (const ExpressionPtr& argument : arguments.positional) out.positional.push_back(evaluate(*argument));
  for (const auto& [name, argument] : arguments.named) out.named.emplace_back(name, evaluate(*argument));
  if (arguments.rest != nullptr) {
    for (Value& value : budget_.iterate(evaluate(*arguments.rest))) out.positional.push_back(std::move(value));
  }
  if (arguments.more != nullptr) {
    const Value more = evaluate(*arguments.more);
    if (more.dict() == nullptr) throw Error("the value after ** must be a dict");
    for (const auto& [key, value] : more.dict()->items) {
      if (!key.is_string()) throw Error("the names after ** must be strings");
      out.named.emplace_back(key.as_string(), value);
    }
  }
  return out;
}

// ---- calls

Value Interpreter::call(const Value& function, Arguments arguments) {
  if (function.is_undefined()) throw Error(function.undefined_message());
  if (function.loop() != nullptr) throw Error("recursive loops are not supported in chat templates");
  const Callable* callable = function.callable();
  if (callable == nullptr) throw Error("'" + std::string(function.type_name()) + "' object is not callable");
  if (callable->macro != nullptr) return call_macro(*callable->macro, callable->name, std::move(arguments));
  if (!callable->self.is_none()) return call_method(budget_, *callable, arguments);
  return call_global(callable->name, arguments);
}

Value Interpreter::call_global(const std::string& name, const Arguments& arguments) {
  if (name == "range") return range(budget_, arguments);
  if (name == "strftime_now") return strftime_now(budget_, arguments);
  if (name == "raise_exception") {
    const Parameters p(name, arguments, {"message"}, 1);
    throw Error(to_str(budget_, *p.get(0)));
  }
  if (name == "dict") return budget_.dict(dict_items(arguments));
  if (name == "namespace") {
    const Value attributes = budget_.dict(dict_items(arguments));
    Namespace* ns = budget_.name_space();
    for (const auto& [key, value] : attributes.dict()->items) {
      if (!key.is_string()) throw Error("the names in a namespace must be strings");
      if (key.as_string().starts_with('_')) {
        throw Error("chat templates cannot store underscore-prefixed attributes on a namespace: '" + key.as_string() +
                    "'");
      }
      ns->attributes.emplace_back(key.as_string(), value);
    }
    return ns;
  }
  throw Error("the function '" + name + "' is not supported in chat templates");
}

/// The entries of dict(...): of a mapping or of pairs, then of named arguments.
std::vector<std::pair<Value, Value>> Interpreter::dict_items(const Arguments& arguments) {
  std::vector<std::pair<Value, Value>> items;
  if (arguments.positional.size() > 1) throw Error("dict() takes at most one positional argument");
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (source.dict() != nullptr) {
      items = source.dict()->items;
    } else {
      for (const Value& pair : budget_.iterate(source)) {
        const Values parts = budget_.iterate(pair);
        if (parts.size() != 2) throw Error("dict() needs pairs");
        items.emplace_back(parts[0], parts[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) items.emplace_back(Value(name), value);
  return items;
}

Value Interpreter::call_macro(const Macro& macro, const std::string& name, Arguments arguments) {
  const Deeper deeper(macro_depth_, budget_.limits().max_recursion, "macros call one another too deeply");
  const Statement& definition = *macro.definition;
  const Signature& signature = definition.signature;
  const size_t count = signature.parameters.size();
  const size_t first_default = count - signature.defaults.size();
  const int call_line = line_;

  const Level level(*this, macro.scope);
  const auto take_named = [&](const std::string& parameter) -> std::optional<Value> {
    const auto found = std::find_if(arguments.named.begin(), arguments.named.end(),
                                    [&](const auto& a) { return a.first == parameter; });
    if (found == arguments.named.end()) return std::nullopt;
    Value value = std::move(found->second);
    arguments.named.erase(found);
    return value;
  };
  // All given arguments first, then the defaults: a default may name another parameter.
  std::vector<size_t> missing;
  for (size_t i = 0; i < count; ++i) {
    const std::string& parameter = signature.parameters[i];
    if (i < arguments.positional.size()) {
      scope_->set(parameter, arguments.positional[i]);
    } else if (std::optional<Value> value = take_named(parameter)) {
      scope_->set(parameter, std::move(*value));
    } else {
      scope_->set(parameter, undefined("parameter " + text::repr(parameter) + " was not provided"));
      missing.push_back(i);
    }
  }
  if (signature.uses_caller) {
    std::optional<Value> caller = take_named("caller");
    scope_->set("caller", caller ? *caller : undefined("No caller defined"));
  }
  if (signature.uses_kwargs) {
    scope_->set("kwargs", budget_.dict(dict_items({{}, std::exchange(arguments.named, {})})));
  } else if (!arguments.named.empty()) {
    throw Error("macro '" + name + "' takes no keyword argument '" + arguments.named[0].first + "'");
  }
  if (signature.uses_varargs) {
    const size_t used = std::min(count, arguments.positional.size());
    scope_->set("varargs", budget_.tuple(Values(arguments.positional.begin() + static_cast<std::ptrdiff_t>(used),
                                                arguments.positional.end())));
  } else if (arguments.positional.size() > count) {
    throw Error("macro '" + name + "' takes not more than " + std::to_string(count) + " argument(s)");
  }
  for (const size_t i : missing) {
    if (i >= first_default) scope_->set(signature.parameters[i], evaluate(*signature.defaults[i - first_default]));
  }

  std::string text;
  std::string* outer = std::exchange(output_, &text);
  execute(definition.body);
  output_ = outer;
  line_ = call_line;
  return Value(std::move(text));
}

}  // namespace autoglm::tokenizer::jinja
