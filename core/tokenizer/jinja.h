#pragma once
/// The part of the Jinja language that chat templates use, with the behaviour of jinja2's ImmutableSandboxedEnvironment
/// as transformers configures it.
///
/// Supported: text, expressions, comments, raw; for (with `loop`, else, filter, unpacking, break, continue), if, set
/// (block form, namespaces, tuples), macro, call, filter, with, generation; Python's literals, operators, slices and
/// methods of str, dict, list; the filters and tests of jinja_filters.cpp and jinja_predicates.cpp. Inheritance,
/// imports and recursive loops are refused by name when parsing. Differences from jinja2: whole numbers have 64 bits;
/// filters that are lazy there run at once here; a name that a block sets only after a nested block has read it keeps,
/// in that nested block, the value given to the rendering (jinja2 makes it undefined there).
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/tokenizer/jinja_value.h"

namespace autoglm::tokenizer::jinja {

class Template {
 public:
  /// kBadInput with the line for wrong or unsupported syntax.
  static Result<Template> parse(std::string_view source);

  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;
  ~Template();

  /// Renders with the members of the object `variables` as names. kBadInput, with the line, when the template fails,
  /// raises an exception of its own or exceeds `limits`. Thread-safe.
  Result<std::string> render(const nlohmann::ordered_json& variables, const Limits& limits = {}) const;

 private:
  struct Impl;
  explicit Template(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace autoglm::tokenizer::jinja
