#pragma once
/// Python's two ways of formatting: `%` and str.format().
#include <string>
#include <string_view>

#include "core/tokenizer/jinja_value.h"

namespace autoglm::tokenizer::jinja {

/// `format % arguments`: %s %r %d %i %u %f %F %e %g %x %X %o %c %%, with flags, width and precision.
std::string format_percent(Budget& budget, std::string_view format, const Value& arguments);

/// `format.format(...)`: {}, {0}, {name}, {name.attribute}, {0[key]}, each with :fill, align, sign, width, precision,
/// type.
std::string format_braces(Budget& budget, std::string_view format, const Arguments& arguments);

}  // namespace autoglm::tokenizer::jinja
