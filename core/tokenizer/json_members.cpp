#include "core/tokenizer/json_members.h"

#include <fmt/format.h>

namespace autoglm::tokenizer {
namespace {

Status missing(std::string_view name) { return bad_input(fmt::format("'{}' is missing", name)); }
Status wrong_type(std::string_view name, std::string_view wanted, const Json& value) {
  return bad_input(fmt::format("'{}' must be {}, not {}", name, wanted, value.type_name()));
}

}  // namespace

const Json* find_member(const Json& object, std::string_view name) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

Result<std::string> string_member(const Json& object, std::string_view name) {
  const Json* value = find_member(object, name);
  if (!value) return missing(name);
  if (!value->is_string()) return wrong_type(name, "a string", *value);
  return value->get_ref<const std::string&>();
}

Result<std::string> string_member(const Json& object, std::string_view name, std::string_view fallback) {
  return find_member(object, name) ? string_member(object, name) : std::string(fallback);
}

Result<bool> bool_member(const Json& object, std::string_view name, std::optional<bool> fallback) {
  const Json* value = find_member(object, name);
  if (!value) return fallback ? Result<bool>(*fallback) : missing(name);
  if (!value->is_boolean()) return wrong_type(name, "true or false", *value);
  return value->get<bool>();
}

Result<int64_t> integer_member(const Json& object, std::string_view name) {
  const Json* value = find_member(object, name);
  if (!value) return missing(name);
  if (!value->is_number_integer()) return wrong_type(name, "a whole number", *value);
  if (value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX) return wrong_type(name, "in range", *value);
  return value->get<int64_t>();
}

Result<const Json*> array_member(const Json& object, std::string_view name) {
  const Json* value = find_member(object, name);
  if (!value) return missing(name);
  if (!value->is_array()) return wrong_type(name, "an array", *value);
  return value;
}

Result<std::string> component_type(const Json& component) {
  if (!component.is_object()) return bad_input(fmt::format("must be an object, not {}", component.type_name()));
  return string_member(component, "type");
}

Result<int32_t> token_id(const Json& value) {
  if (!value.is_number_integer()) return bad_input(fmt::format("an id must be a whole number, not {}", value.dump()));
  const bool fits = value.is_number_unsigned() ? value.get<uint64_t>() < static_cast<uint64_t>(kMaxTokenId)
                                               : value.get<int64_t>() >= 0 && value.get<int64_t>() < kMaxTokenId;
  if (!fits) return bad_input(fmt::format("the id {} is not between 0 and {}", value.dump(), kMaxTokenId - 1));
  return value.get<int32_t>();
}

}  // namespace autoglm::tokenizer
