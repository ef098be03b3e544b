#pragma once
/// Values as text in a wanted layout: JSON, and Python's two ways of formatting.
#include <string>
#include <string_view>

#include "core/tokenizer/jinja_value.h"

namespace autoglm::tokenizer::jinja {

/// How json.dumps lays out its text.
struct JsonLayout {
  bool indented = false;
  std::string indent;  ///< of one level, when indented
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool ensure_ascii = false;
  bool sort_keys = false;
};

/// json.dumps(v). Fails on what JSON has no form for.
std::string to_json(Budget& budget, const Value& v, const JsonLayout& layout);

/// `format % arguments`: %s %r %d %i %u %f %F %e %g %x %X %o %c %%, with flags, width and precision.
std::string format_percent(Budget& budget, std::string_view format, const Value& arguments);

/// `format.format(...)`: {}, {0}, {name}, {name.attribute}, {0[key]}, each with :fill, align, sign, width, precision,
/// type.
std::string format_braces(Budget& budget, std::string_view format, const Arguments& arguments);

/// str.replace(), bounded.
Value replace_text(Budget& budget, const std::string& s, const std::string& from, const std::string& to, int64_t count);

}  // namespace autoglm::tokenizer::jinja
