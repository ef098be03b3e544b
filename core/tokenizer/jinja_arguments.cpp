#include "core/tokenizer/jinja_arguments.h"

#include <algorithm>

namespace autoglm::tokenizer::jinja {

Parameters::Parameters(std::string_view function, const Arguments& arguments,
                       std::initializer_list<std::string_view> names, size_t required)
    : function_(function), names_(names), values_(names.size(), nullptr) {
  const std::string self(function);
  if (arguments.positional.size() > names_.size()) {
    throw Error(self + "() takes at most " + std::to_string(names_.size()) + " arguments, got " +
                std::to_string(arguments.positional.size()));
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto at = static_cast<size_t>(std::find(names_.begin(), names_.end(), name) - names_.begin());
    if (at == names_.size()) throw Error(self + "() has no argument '" + name + "'");
    if (values_[at] != nullptr) throw Error(self + "() got two values for '" + name + "'");
    values_[at] = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (values_[i] == nullptr) throw Error(self + "() needs the argument '" + std::string(names_[i]) + "'");
  }
}

int64_t Parameters::integer(size_t i, int64_t fallback) const {
  if (is_none(i)) return fallback;
  if (values_[i]->is_undefined()) throw Error(values_[i]->undefined_message());
  if (!values_[i]->is_integral()) {
    throw Error(std::string(function_) + "(): '" + std::string(names_[i]) + "' must be a whole number, not '" +
                std::string(values_[i]->type_name()) + "'");
  }
  return values_[i]->as_int();
}

const std::string& Parameters::string(size_t i) const {
  if (!given(i) || !values_[i]->is_string()) {
    throw Error(std::string(function_) + "(): '" + std::string(names_[i]) + "' must be a string, not '" +
                std::string(given(i) ? values_[i]->type_name() : "nothing") + "'");
  }
  return values_[i]->as_string();
}

std::optional<std::string_view> Parameters::optional_string(size_t i) const {
  if (is_none(i)) return std::nullopt;
  return string(i);
}

}  // namespace autoglm::tokenizer::jinja
