#pragma once
/// Python's operators, subscripts and attributes on template values.
#include <optional>
#include <string>
#include <string_view>

#include "core/tokenizer/jinja_value.h"

namespace autoglm::tokenizer::jinja {

/// `a op b` for + - * / // % **.
Value binary(Budget& budget, std::string_view op, const Value& a, const Value& b);

/// `a op b` for == != < <= > >= in, not in.
bool compare(Budget& budget, std::string_view op, const Value& a, const Value& b);

/// `needle in haystack`
bool contains(Budget& budget, const Value& needle, const Value& haystack);

Value negate(const Value& v);

/// `object.name`: a method, else the entry of that name. `object[key]`: the entry, else a method. What is missing is
/// undefined; anything asked of an undefined object fails.
Value get_attribute(Budget& budget, const Value& object, const std::string& name);
Value get_item(Budget& budget, const Value& object, const Value& key);

/// `object[start:stop:step]`; None stands for a bound that was left out.
Value slice(Budget& budget, const Value& object, const Value& start, const Value& stop, const Value& step);

/// len(v)
int64_t length(Budget& budget, const Value& v);

/// Concatenation that escapes what is added to markup.
Value add_text(Budget& budget, const Value& a, const Value& b);

}  // namespace autoglm::tokenizer::jinja
