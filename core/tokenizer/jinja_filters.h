#pragma once
/// The filters (`value | name(arguments)`) and tests (`value is name(arguments)`) of the template language.
#include <string_view>

#include "core/tokenizer/jinja_value.h"

namespace autoglm::tokenizer::jinja {

bool has_filter(std::string_view name);
bool has_test(std::string_view name);

/// Throws Error for a name that is not known: `map` and `select` take names that only rendering knows.
Value apply_filter(Budget& budget, std::string_view name, const Value& input, const Arguments& arguments);
bool apply_test(Budget& budget, std::string_view name, const Value& subject, const Arguments& arguments);

}  // namespace autoglm::tokenizer::jinja
