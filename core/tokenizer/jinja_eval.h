#pragma once
/// Runs a syntax tree.
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/tokenizer/jinja_ast.h"
#include "core/tokenizer/jinja_value.h"

namespace autoglm::tokenizer::jinja {

/// The names of one level of nesting. for, macro, set blocks, filter blocks, with and call open a level; if does not.
struct Scope {
  Scope* parent = nullptr;
  bool captured = false;  ///< a macro refers to it, so that it must outlive its block
  std::vector<std::pair<std::string_view, Value>> names;

  Value* find(std::string_view name);
  void set(std::string_view name, Value value);
};

/// A macro, or the body of a call block: code and the scope it was defined in.
struct Macro {
  const Statement* definition;
  Scope* scope;
};

/// One rendering of one template.
class Interpreter {
 public:
  Interpreter(Budget& budget, std::unordered_map<std::string, Value> variables);

  /// The text that `program` prints. Throws Error with the line.
  std::string run(const Block& program);

 private:
  enum class Flow { kNormal, kBreak, kContinue };
  class Level;  // opens a Scope for as long as it lives

  Flow execute(const Block& block);
  Flow execute(const Statement& s);
  Flow execute_for(const Statement& s);
  Flow capture(const Block& block, std::string& text);
  void define_macro(const Statement& s);
  Flow execute_call_block(const Statement& s);
  Flow execute_with(const Statement& s);
  void assign(const Target& target, const Value& value);
  void print(std::string_view text);

  Value evaluate(const Expression& e);
  Value evaluate_name(const Expression& e);
  Value evaluate_row(const Expression& e);
  Value evaluate_dict(const Expression& e);
  Value evaluate_slice(const Expression& e);
  Value evaluate_unary(const Expression& e);
  Value evaluate_binary(const Expression& e);
  Value evaluate_concat(const Expression& e);
  Value evaluate_compare(const Expression& e);
  Value evaluate_ternary(const Expression& e);
  Value evaluate_call(const Expression& e, const Value* caller = nullptr);
  Value evaluate_filter(const Expression& e, const Value* head = nullptr);
  Arguments evaluate_arguments(const CallArguments& arguments);

  Value call(const Value& function, Arguments arguments);
  Value call_global(const std::string& name, const Arguments& arguments);
  Value call_macro(const Macro& macro, const std::string& name, Arguments arguments);
  std::vector<std::pair<Value, Value>> dict_items(const Arguments& arguments);

  Budget& budget_;
  std::unordered_map<std::string, Value> variables_;
  Scope root_;
  Scope* scope_ = &root_;
  std::vector<std::unique_ptr<Scope>> kept_scopes_;
  std::deque<Macro> macros_;
  std::string* output_ = nullptr;
  int line_ = 0;
  int depth_ = 0;
  int macro_depth_ = 0;
};

}  // namespace autoglm::tokenizer::jinja
