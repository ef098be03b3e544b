#pragma once
/// Parses a template into its syntax tree. The grammar is Jinja's; template inheritance, imports and recursive loops,
/// which no chat template can use or does, are refused by name.
#include <string_view>

#include "core/tokenizer/jinja_ast.h"

namespace autoglm::tokenizer::jinja {

/// Throws Error, with the line, for wrong syntax and for statements, filters and tests that are not supported.
Block parse(std::string_view source);

}  // namespace autoglm::tokenizer::jinja
