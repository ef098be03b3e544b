#pragma once
/// The tokens of a template as a parser reads them: one at a time, with one token of look-ahead.
#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/tokenizer/jinja_lexer.h"
#include "core/tokenizer/jinja_value.h"

namespace autoglm::tokenizer::jinja {

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[at_]; }
  const Token& look() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }

  Token next() {
    Token token = tokens_[at_];
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }

  bool is(TokenKind kind) const { return current().kind == kind; }
  bool is_name(std::string_view name) const { return is(TokenKind::kName) && current().text == name; }
  bool is_op(std::string_view op) const { return is(TokenKind::kOperator) && current().text == op; }

  bool skip_name(std::string_view name) {
    const bool found = is_name(name);
    if (found) next();
    return found;
  }

  bool skip_op(std::string_view op) {
    const bool found = is_op(op);
    if (found) next();
    return found;
  }

  [[noreturn]] void fail(const std::string& message, int line = 0) const {
    throw Error(message, line == 0 ? current().line : line);
  }

  [[noreturn]] void fail_expected(std::string_view what) const {
    fail("expected " + std::string(what) + ", got '" + current().text + "'");
  }

  void expect_op(std::string_view op) {
    if (!skip_op(op)) fail_expected("'" + std::string(op) + "'");
  }

  void expect(TokenKind kind, std::string_view what) {
    if (!is(kind)) fail_expected(what);
    next();
  }

  std::string expect_name() {
    if (!is(TokenKind::kName)) fail_expected("a name");
    return next().text;
  }

 private:
  std::vector<Token> tokens_;  // ended by one kEnd, which is never left
  size_t at_ = 0;
};

}  // namespace autoglm::tokenizer::jinja
