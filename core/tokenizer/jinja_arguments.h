#pragma once
/// Matches the arguments of one call to the parameter names of a built-in function, as Python does.
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/tokenizer/jinja_value.h"

namespace autoglm::tokenizer::jinja {

class Parameters {
 public:
  /// Fails when there are too many arguments, an unknown name, one given twice, or fewer than `required`.
  /// The arguments must outlive this object.
  Parameters(std::string_view function, const Arguments& arguments, std::initializer_list<std::string_view> names,
             size_t required = 0);

  /// The argument, or null when it was left out.
  const Value* get(size_t i) const { return values_[i]; }
  bool given(size_t i) const { return values_[i] != nullptr; }
  bool is_none(size_t i) const { return values_[i] == nullptr || values_[i]->is_none(); }

  /// The argument in a C++ type; fails when it has another. None counts as left out.
  int64_t integer(size_t i, int64_t fallback) const;
  bool flag(size_t i, bool fallback) const { return given(i) ? values_[i]->truthy() : fallback; }
  const std::string& string(size_t i) const;
  std::optional<std::string_view> optional_string(size_t i) const;

 private:
  std::string_view function_;
  std::vector<std::string_view> names_;
  std::vector<const Value*> values_;
};

/// Fails when a function without parameters is given arguments.
inline void expect_none(std::string_view function, const Arguments& arguments) {
  [[maybe_unused]] const Parameters none(function, arguments, {});
}

}  // namespace autoglm::tokenizer::jinja
