#pragma once
/// Values as JSON text, as Python's json.dumps writes it.
#include <string>

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

}  // namespace autoglm::tokenizer::jinja
