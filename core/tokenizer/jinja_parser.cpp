#include "core/tokenizer/jinja_parser.h"

#include <algorithm>
#include <array>
#include <initializer_list>

#include "core/tokenizer/jinja_filters.h"
#include "core/tokenizer/jinja_tokens.h"

namespace autoglm::tokenizer::jinja {
namespace {

constexpr int kMaxNesting = 100;  // brackets, unary operators or blocks inside one another
constexpr int kMaxDepth = 400;    // of an expression's tree, long chains of operators included

constexpr std::array<std::string_view, 10> kRefusedStatements = {"extends",    "include", "import", "from",  "block",
                                                                 "autoescape", "print",   "do",     "trans", "debug"};

using Kind = Expression::Kind;

class Parser : TokenStream {
 public:
  using TokenStream::TokenStream;

  Block run() { return block({}); }

 private:
  /// Counts recursion for as long as it lives.
  class Nesting {
   public:
    explicit Nesting(Parser& parser) : parser_(parser) {
      if (++parser_.nesting_ > kMaxNesting) parser_.fail("the template nests more than 100 levels deep");
    }
    ~Nesting() { --parser_.nesting_; }

   private:
    Parser& parser_;
  };

  // ---- statements

  /// Statements up to a tag whose name is in `ends`; that name is then the current token. No `ends`: the whole
  /// template.
  Block block(std::initializer_list<std::string_view> ends) {
    const Nesting nesting(*this);
    Block out;
    while (!is(TokenKind::kEnd)) {
      if (is(TokenKind::kData)) {
        const Token data = next();
        Statement& text = add(out, Statement::Kind::kText, data.line);
        text.text = data.text;
      } else if (is(TokenKind::kVariableBegin)) {
        const int line = next().line;
        Statement& output = add(out, Statement::Kind::kOutput, line);
        output.expression = tuple();
        expect(TokenKind::kVariableEnd, "'}}'");
      } else {
        next();  // {%
        if (is(TokenKind::kName) && std::find(ends.begin(), ends.end(), current().text) != ends.end()) return out;
        statement(out);
        expect(TokenKind::kBlockEnd, "'%}'");
      }
    }
    if (ends.size() > 0) fail("the template ends before '{% " + std::string(*(ends.end() - 1)) + " %}'");
    return out;
  }

  /// The body of a tag just read: `%} ... {% end`, the end tag's name included.
  Block body(std::string_view end) {
    skip_op(":");
    expect(TokenKind::kBlockEnd, "'%}'");
    Block out = block({end});
    next();
    return out;
  }

  static Statement& add(Block& out, Statement::Kind kind, int line) {
    Statement& statement = out.emplace_back();
    statement.kind = kind;
    statement.line = line;
    return statement;
  }

  void statement(Block& out) {
    if (!is(TokenKind::kName)) fail_expected("the name of a statement");
    const Token name = next();
    const auto begin = [&](Statement::Kind kind) -> Statement& { return add(out, kind, name.line); };
    if (name.text == "if") return if_statement(begin(Statement::Kind::kIf));
    if (name.text == "for") return for_statement(begin(Statement::Kind::kFor));
    if (name.text == "set") return set(begin(Statement::Kind::kSet));
    if (name.text == "macro") return macro(begin(Statement::Kind::kMacro));
    if (name.text == "call") return call_block(begin(Statement::Kind::kCallBlock));
    if (name.text == "filter") {
      Statement& s = begin(Statement::Kind::kFilterBlock);
      s.expression = filter(nullptr);
      s.expression = filters(std::move(s.expression));
      s.body = body("endfilter");
    } else if (name.text == "with") {
      with(begin(Statement::Kind::kWith));
    } else if (name.text == "generation") {
      begin(Statement::Kind::kScope).body = body("endgeneration");
    } else if (name.text == "break" || name.text == "continue") {
      if (loops_ == 0) fail("'" + name.text + "' outside of a loop", name.line);
      begin(name.text == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue);
    } else if (std::find(kRefusedStatements.begin(), kRefusedStatements.end(), name.text) != kRefusedStatements.end()) {
      fail("the statement '{% " + name.text + " %}' is not supported in chat templates", name.line);
    } else {
      fail("unknown statement '{% " + name.text + " %}'", name.line);
    }
  }

  void if_statement(Statement& s) {
    bool conditional = true;
    while (true) {
      Statement::Branch& branch = s.branches.emplace_back();
      if (conditional) branch.condition = tuple(false);
      skip_op(":");
      expect(TokenKind::kBlockEnd, "'%}'");
      branch.body = conditional ? block({"elif", "else", "endif"}) : block({"endif"});
      const std::string end = next().text;
      if (end == "endif") return;
      conditional = end == "elif";
    }
  }

  void for_statement(Statement& s) {
    s.target = target();
    if (!skip_name("in")) fail_expected("'in'");
    s.expression = tuple(false);
    if (skip_name("if")) s.condition = expression();
    if (is_name("recursive")) fail("recursive loops are not supported in chat templates");
    skip_op(":");
    expect(TokenKind::kBlockEnd, "'%}'");
    ++loops_;
    s.body = block({"else", "endfor"});
    --loops_;
    if (next().text == "else") s.otherwise = body("endfor");
  }

  void set(Statement& s) {
    s.target = target(true);
    if (skip_op("=")) {
      s.expression = tuple();
      return;
    }
    s.kind = Statement::Kind::kSetBlock;
    s.expression = filters(nullptr);
    s.body = body("endset");
  }

  void with(Statement& s) {
    while (!is(TokenKind::kBlockEnd)) {
      if (!s.bindings.empty()) expect_op(",");
      auto& [target, value] = s.bindings.emplace_back();
      target = this->target();
      expect_op("=");
      value = expression();
    }
    s.body = body("endwith");
  }

  void macro(Statement& s) {
    s.signature.name = expect_name();
    signature(s.signature);
    macro_body(s, "endmacro");
  }

  void call_block(Statement& s) {
    s.signature.name = "caller";
    if (is_op("(")) signature(s.signature);
    s.expression = expression();
    if (s.expression->kind != Kind::kCall) fail("'{% call %}' needs the call of a macro", s.line);
    macro_body(s, "endcall");
  }

  void signature(Signature& out) {
    expect_op("(");
    while (!is_op(")")) {
      if (!out.parameters.empty()) expect_op(",");
      out.parameters.push_back(expect_name());
      if (skip_op("=")) {
        out.defaults.push_back(expression());
      } else if (!out.defaults.empty()) {
        fail("a parameter without a default follows one with a default");
      }
    }
    expect_op(")");
  }

  /// Reads the body and notes which of the special names varargs, kwargs and caller it uses.
  void macro_body(Statement& s, std::string_view end) {
    const int loops = std::exchange(loops_, 0);  // break cannot leave a macro
    const size_t first_name = names_.size();
    s.body = body(end);
    loops_ = loops;
    const auto uses = [&](std::string_view name) {
      const auto& parameters = s.signature.parameters;
      return std::find(names_.begin() + static_cast<std::ptrdiff_t>(first_name), names_.end(), name) != names_.end() &&
             std::find(parameters.begin(), parameters.end(), name) == parameters.end();
    };
    s.signature.uses_varargs = uses("varargs");
    s.signature.uses_kwargs = uses("kwargs");
    s.signature.uses_caller = uses("caller");
  }

  Target target(bool with_namespace = false) {
    const Nesting nesting(*this);
    const int line = current().line;
    std::vector<Target> parts;
    bool is_tuple = false;
    while (true) {
      if (!parts.empty()) expect_op(",");
      if (is(TokenKind::kBlockEnd) || is_op(")") || is_op("=")) break;
      parts.push_back(single_target(with_namespace));
      if (!is_op(",")) break;
      is_tuple = true;
    }
    if (parts.empty()) fail_expected("a name to assign to");
    if (!is_tuple) return std::move(parts[0]);
    return {Target::Kind::kTuple, line, {}, {}, std::move(parts)};
  }

  Target single_target(bool with_namespace) {
    const int line = current().line;
    if (skip_op("(")) {
      Target inner = target(with_namespace);
      expect_op(")");
      return inner;
    }
    const std::string name = expect_name();
    static constexpr std::array<std::string_view, 6> kLiterals = {"true", "false", "none", "True", "False", "None"};
    if (std::find(kLiterals.begin(), kLiterals.end(), name) != kLiterals.end())
      fail("cannot assign to '" + name + "'", line);
    if (with_namespace && skip_op(".")) return {Target::Kind::kAttribute, line, name, expect_name(), {}};
    return {Target::Kind::kName, line, name, {}, {}};
  }

  // ---- expressions, weakest binding first

  ExpressionPtr make(Kind kind, int line, std::string name = {}) {
    auto node = std::make_unique<Expression>();
    node->kind = kind;
    node->line = line;
    node->name = std::move(name);
    return node;
  }

  template <typename... Operand>
  ExpressionPtr make_with(Kind kind, int line, std::string name, Operand... operands) {
    ExpressionPtr node = make(kind, line, std::move(name));
    (node->operands.push_back(std::move(operands)), ...);
    return measured(std::move(node));
  }

  /// `node` with its depth set from its parts, or an error when it is too deep.
  ExpressionPtr measured(ExpressionPtr node) const {
    const auto include = [&](const ExpressionPtr& part) {
      if (part != nullptr) node->depth = std::max(node->depth, part->depth + 1);
    };
    for (const auto& operand : node->operands) include(operand);
    for (const auto& argument : node->arguments.positional) include(argument);
    for (const auto& argument : node->arguments.named) include(argument.second);
    include(node->arguments.rest);
    include(node->arguments.more);
    if (node->depth > kMaxDepth)
      fail("an expression is more than " + std::to_string(kMaxDepth) + " operations deep", node->line);
    return node;
  }

  /// One expression, or several separated by commas, which make a tuple.
  ExpressionPtr tuple(bool with_ternary = true, bool in_brackets = false) {
    const int line = current().line;
    std::vector<ExpressionPtr> parts;
    bool is_tuple = false;
    while (true) {
      if (!parts.empty()) expect_op(",");
      if (is(TokenKind::kVariableEnd) || is(TokenKind::kBlockEnd) || is_op(")")) break;
      parts.push_back(with_ternary ? expression() : disjunction());
      if (!is_op(",")) break;
      is_tuple = true;
    }
    if (!is_tuple && !parts.empty()) return std::move(parts[0]);
    if (!is_tuple && !in_brackets) fail_expected("an expression");
    ExpressionPtr node = make(Kind::kTuple, line);
    node->operands = std::move(parts);
    return measured(std::move(node));
  }

  ExpressionPtr expression() {
    const Nesting nesting(*this);
    int line = current().line;
    ExpressionPtr value = disjunction();
    while (skip_name("if")) {
      ExpressionPtr condition = disjunction();
      ExpressionPtr otherwise = skip_name("else") ? expression() : nullptr;
      value = make_with(Kind::kTernary, line, {}, std::move(value), std::move(condition), std::move(otherwise));
      line = current().line;
    }
    return value;
  }

  /// operand (op operand)*, grouped from the left; `names` when the operators are words.
  template <typename Next>
  ExpressionPtr chain(std::initializer_list<std::string_view> ops, TokenKind kind, Next operand) {
    ExpressionPtr left = operand();
    while (is(kind) && std::find(ops.begin(), ops.end(), current().text) != ops.end()) {
      const Token op = next();
      ExpressionPtr right = operand();
      left = make_with(Kind::kBinary, op.line, op.text, std::move(left), std::move(right));
    }
    return left;
  }

  ExpressionPtr disjunction() {
    return chain({"or"}, TokenKind::kName, [this] { return conjunction(); });
  }

  ExpressionPtr conjunction() {
    return chain({"and"}, TokenKind::kName, [this] { return negation(); });
  }

  ExpressionPtr negation() {
    if (!is_name("not")) return compare();
    const Nesting nesting(*this);
    const int line = next().line;
    return make_with(Kind::kUnary, line, "not", negation());
  }

  ExpressionPtr compare() {
    static constexpr std::array<std::string_view, 6> kOperators = {"==", "!=", "<", "<=", ">", ">="};
    ExpressionPtr left = sum();
    if (!is(TokenKind::kOperator) && !is(TokenKind::kName)) return left;
    ExpressionPtr node = make(Kind::kCompare, current().line);
    node->operands.push_back(std::move(left));
    while (true) {
      if (is(TokenKind::kOperator) &&
          std::find(kOperators.begin(), kOperators.end(), current().text) != kOperators.end()) {
        node->comparisons.push_back(next().text);
      } else if (skip_name("in")) {
        node->comparisons.emplace_back("in");
      } else if (is_name("not") && look().kind == TokenKind::kName && look().text == "in") {
        next();
        next();
        node->comparisons.emplace_back("not in");
      } else {
        break;
      }
      node->operands.push_back(sum());
    }
    if (node->comparisons.empty()) return std::move(node->operands[0]);
    return measured(std::move(node));
  }

  ExpressionPtr sum() {
    return chain({"+", "-"}, TokenKind::kOperator, [this] { return concat(); });
  }

  ExpressionPtr concat() {
    const int line = current().line;
    ExpressionPtr first = product();
    if (!is_op("~")) return first;
    ExpressionPtr node = make(Kind::kConcat, line);
    node->operands.push_back(std::move(first));
    while (skip_op("~")) node->operands.push_back(product());
    return measured(std::move(node));
  }

  ExpressionPtr product() {
    return chain({"*", "/", "//", "%"}, TokenKind::kOperator, [this] { return power(); });
  }

  ExpressionPtr power() {
    return chain({"**"}, TokenKind::kOperator, [this] { return unary(true); });
  }

  ExpressionPtr unary(bool with_filters) {
    const Nesting nesting(*this);
    ExpressionPtr node;
    if (is_op("-") || is_op("+")) {
      const Token op = next();
      node = make_with(Kind::kUnary, op.line, op.text, unary(false));
    } else {
      node = primary();
    }
    node = postfix(std::move(node));
    return with_filters ? filters_and_tests(std::move(node)) : std::move(node);
  }

  ExpressionPtr primary() {
    const int line = current().line;
    switch (current().kind) {
      case TokenKind::kName: return name_or_literal();
      case TokenKind::kString: {
        std::string text;
        while (is(TokenKind::kString)) text += next().text;
        return constant(line, Value(std::move(text)));
      }
      case TokenKind::kInteger: return constant(line, Value(next().integer));
      case TokenKind::kFloat: return constant(line, Value(next().number));
      default: break;
    }
    if (skip_op("(")) {
      ExpressionPtr inner = tuple(true, true);
      expect_op(")");
      return inner;
    }
    if (skip_op("[")) {
      ExpressionPtr list = make(Kind::kList, line);
      while (!is_op("]")) {
        if (!list->operands.empty()) expect_op(",");
        if (is_op("]")) break;
        list->operands.push_back(expression());
      }
      expect_op("]");
      return measured(std::move(list));
    }
    if (skip_op("{")) {
      ExpressionPtr dict = make(Kind::kDict, line);
      while (!is_op("}")) {
        if (!dict->operands.empty()) expect_op(",");
        if (is_op("}")) break;
        dict->operands.push_back(expression());
        expect_op(":");
        dict->operands.push_back(expression());
      }
      expect_op("}");
      return measured(std::move(dict));
    }
    fail("unexpected '" + current().text + "'");
  }

  ExpressionPtr constant(int line, Value value) {
    ExpressionPtr node = make(Kind::kConstant, line);
    node->constant = std::move(value);
    return node;
  }

  ExpressionPtr name_or_literal() {
    const Token token = next();
    const std::string& name = token.text;
    if (name == "true" || name == "True") return constant(token.line, true);
    if (name == "false" || name == "False") return constant(token.line, false);
    if (name == "none" || name == "None") return constant(token.line, nullptr);
    names_.push_back(name);
    return make(Kind::kName, token.line, name);
  }

  ExpressionPtr postfix(ExpressionPtr node) {
    while (true) {
      if (is_op(".")) {
        node = attribute(std::move(node));
      } else if (is_op("[")) {
        node = subscript(std::move(node));
      } else if (is_op("(")) {
        node = call(std::move(node));
      } else {
        return node;
      }
    }
  }

  ExpressionPtr filters_and_tests(ExpressionPtr node) {
    while (true) {
      if (skip_op("|")) {
        node = filter(std::move(node));
      } else if (skip_name("is")) {
        node = test(std::move(node));
      } else if (is_op("(")) {
        node = call(std::move(node));
      } else {
        return node;
      }
    }
  }

  ExpressionPtr filters(ExpressionPtr node) {
    while (skip_op("|")) node = filter(std::move(node));
    return node;
  }

  ExpressionPtr attribute(ExpressionPtr object) {
    const int line = next().line;
    if (is(TokenKind::kInteger)) {
      ExpressionPtr index = constant(line, Value(next().integer));
      return make_with(Kind::kItem, line, {}, std::move(object), std::move(index));
    }
    std::string name = expect_name();
    return make_with(Kind::kAttribute, line, std::move(name), std::move(object));
  }

  ExpressionPtr subscript(ExpressionPtr object) {
    const int line = next().line;
    const auto bound = [this]() -> ExpressionPtr { return is_op(":") || is_op("]") ? nullptr : expression(); };
    ExpressionPtr start = bound();
    if (start == nullptr && is_op("]")) fail_expected("an index");
    if (!is_op(":")) {
      if (is_op(",")) fail("an index made of several values is not supported");
      expect_op("]");
      return make_with(Kind::kItem, line, {}, std::move(object), std::move(start));
    }
    next();
    ExpressionPtr stop = bound();
    ExpressionPtr step = skip_op(":") ? bound() : nullptr;
    expect_op("]");
    return make_with(Kind::kSlice, line, {}, std::move(object), std::move(start), std::move(stop), std::move(step));
  }

  ExpressionPtr call(ExpressionPtr function) {
    ExpressionPtr node = make(Kind::kCall, current().line);
    node->operands.push_back(std::move(function));
    node->arguments = arguments();
    return measured(std::move(node));
  }

  CallArguments arguments() {
    const int line = current().line;
    CallArguments out;
    expect_op("(");
    bool first = true;
    while (!is_op(")")) {
      if (!first) expect_op(",");
      if (is_op(")")) break;
      first = false;
      if (skip_op("*")) {
        if (out.rest != nullptr || out.more != nullptr) fail("invalid order of arguments", line);
        out.rest = expression();
      } else if (skip_op("**")) {
        if (out.more != nullptr) fail("invalid order of arguments", line);
        out.more = expression();
      } else if (is(TokenKind::kName) && look().kind == TokenKind::kOperator && look().text == "=") {
        if (out.more != nullptr) fail("invalid order of arguments", line);
        std::string name = next().text;
        next();
        for (const auto& [other, value] : out.named) {
          if (other == name) fail("the argument '" + name + "' is given twice", line);
        }
        out.named.emplace_back(std::move(name), expression());
      } else {
        if (out.rest != nullptr || out.more != nullptr || !out.named.empty()) fail("invalid order of arguments", line);
        out.positional.push_back(expression());
      }
    }
    expect_op(")");
    return out;
  }

  ExpressionPtr filter(ExpressionPtr input) {
    const int line = current().line;
    std::string name = expect_name();
    if (!has_filter(name)) fail("the filter '" + name + "' is not supported", line);
    ExpressionPtr node = make(Kind::kFilter, line, std::move(name));
    node->operands.push_back(std::move(input));
    if (is_op("(")) node->arguments = arguments();
    return measured(std::move(node));
  }

  ExpressionPtr test(ExpressionPtr subject) {
    const int line = current().line;
    const bool negated = skip_name("not");
    std::string name = expect_name();
    if (!has_test(name)) fail("the test 'is " + name + "' is not supported", line);
    ExpressionPtr node = make(Kind::kTest, line, std::move(name));
    node->operands.push_back(std::move(subject));
    const bool literal =
        is(TokenKind::kString) || is(TokenKind::kInteger) || is(TokenKind::kFloat) || is_op("[") || is_op("{");
    const bool word = is(TokenKind::kName) && !is_name("else") && !is_name("or") && !is_name("and");
    if (is_op("(")) {
      node->arguments = arguments();
    } else if (literal || word) {
      if (is_name("is")) fail("two tests in a row need brackets");
      ExpressionPtr argument = primary();
      node->arguments.positional.push_back(postfix(std::move(argument)));
    }
    node = measured(std::move(node));
    return negated ? make_with(Kind::kUnary, line, "not", std::move(node)) : std::move(node);
  }

  int nesting_ = 0;
  int loops_ = 0;
  std::vector<std::string> names_;  // every variable read so far
};

}  // namespace

Block parse(std::string_view source) { return Parser(tokenize(source)).run(); }

}  // namespace autoglm::tokenizer::jinja
