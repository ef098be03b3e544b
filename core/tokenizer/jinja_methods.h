#pragma once
/// The methods of Python's str, dict, list and tuple that templates call.
#include <optional>
#include <string>

#include "core/tokenizer/jinja_value.h"

namespace autoglm::tokenizer::jinja {

/// The bound method `object.name`, or nothing when the type has no such attribute. A method that would change the
/// object is undefined, as in Jinja's sandbox; one that Python has and this language has not fails by name.
std::optional<Value> find_method(const Value& object, const std::string& name);

/// Calls what find_method returned.
Value call_method(Budget& budget, const Callable& method, const Arguments& arguments);

/// str.replace(), bounded; `count` < 0 replaces all.
Value replace_text(Budget& budget, const std::string& s, const std::string& from, const std::string& to, int64_t count);

}  // namespace autoglm::tokenizer::jinja
