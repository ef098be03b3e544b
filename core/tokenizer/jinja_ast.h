#pragma once
/// The syntax tree of a template. Nodes are made by the parser, never changed afterwards, and shared by renderings.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/tokenizer/jinja_value.h"

namespace autoglm::tokenizer::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

/// The arguments of a call as written: f(a, *rest, name=b, **more).
struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr rest, more;
};

struct Expression {
  enum class Kind {
    kConstant,
    kName,       // name
    kList,       // operands
    kTuple,      // operands
    kDict,       // operands: key, value, key, value, ...
    kAttribute,  // operands[0] . name
    kItem,       // operands[0] [ operands[1] ]
    kSlice,      // operands[0] [ operands[1] : operands[2] : operands[3] ], null where left out
    kCall,       // operands[0] ( arguments )
    kFilter,     // operands[0] | name ( arguments ); operands[0] is null at the head of a filter block
    kTest,       // operands[0] is name ( arguments )
    kUnary,      // name: "-", "+", "not"
    kBinary,     // name: "+", "-", "*", "/", "//", "%", "**", "and", "or"
    kConcat,     // operands joined by ~
    kCompare,    // operands[0] comparisons[0] operands[1] comparisons[1] ...
    kTernary,    // operands[0] if operands[1] else operands[2] (null when left out)
  };
  Kind kind;
  int line;
  int depth = 1;  ///< of the tree below, bounded by the parser so that walking it cannot exhaust the stack
  std::string name;
  Value constant;
  std::vector<ExpressionPtr> operands;
  std::vector<std::string> comparisons;  // "==", "!=", "<", "<=", ">", ">=", "in", "not in"
  CallArguments arguments;
};

/// What can stand left of `=` in set and before `in` of a loop.
struct Target {
  enum class Kind { kName, kAttribute, kTuple };
  Kind kind;
  int line;
  std::string name, attribute;  // `name` or `name.attribute` (of a namespace)
  std::vector<Target> parts;
};

struct Statement;
using Block = std::vector<Statement>;

/// macro m(parameters) and {% call(parameters) ... %}: defaults belong to the last parameters.
struct Signature {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExpressionPtr> defaults;
  bool uses_varargs = false, uses_kwargs = false, uses_caller = false;
};

struct Statement {
  enum class Kind {
    kText,         // text
    kOutput,       // {{ expression }}
    kIf,           // branches, in order; the last may have no condition
    kFor,          // for target in expression if condition: body, otherwise
    kSet,          // set target = expression
    kSetBlock,     // set target | expression (filters, may be null): body
    kMacro,        // signature, body
    kCallBlock,    // call(signature) expression: body
    kFilterBlock,  // filter expression: body
    kWith,         // with targets = values: body
    kScope,        // generation: body
    kBreak,
    kContinue,
  };
  struct Branch {
    ExpressionPtr condition;
    Block body;
  };
  Kind kind;
  int line;
  std::string text;
  ExpressionPtr expression, condition;
  Target target;
  std::vector<Branch> branches;
  Signature signature;
  std::vector<std::pair<Target, ExpressionPtr>> bindings;  // kWith
  Block body, otherwise;
};

}  // namespace autoglm::tokenizer::jinja
