#pragma once
/// Cuts a template into tokens, with Jinja's white-space rules as transformers sets them: trim_blocks (the newline
/// after a block tag goes), lstrip_blocks (white space before a block tag on its line goes), one newline at the end
/// goes.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace autoglm::tokenizer::jinja {

enum class TokenKind {
  kData,           ///< text between tags
  kVariableBegin,  ///< {{
  kVariableEnd,    ///< }}
  kBlockBegin,     ///< {%
  kBlockEnd,       ///< %}
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind;
  int line;
  std::string text;  ///< the text, name, operator, or the string with its escapes resolved
  int64_t integer = 0;
  double number = 0;
};

/// The tokens of `source`, ended by one kEnd. Throws Error with the line.
std::vector<Token> tokenize(std::string_view source);

}  // namespace autoglm::tokenizer::jinja
