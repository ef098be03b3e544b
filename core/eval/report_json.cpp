#include <fmt/format.h>

#include <limits>

#include "core/eval/report_fields.h"
#include "core/format/json.h"

namespace autoglm::eval {
namespace {

using Json = nlohmann::ordered_json;

template <typename T>
constexpr bool is_vector = false;
template <typename T>
constexpr bool is_vector<std::vector<T>> = true;
template <typename T>
constexpr bool is_optional = false;
template <typename T>
constexpr bool is_optional<std::optional<T>> = true;
template <typename T>
constexpr bool is_plain = std::is_arithmetic_v<T> || std::is_same_v<T, std::string> || std::is_same_v<T, Json>;

// ---- out

template <typename T>
Json write(const T& value) {
  if constexpr (is_plain<T>) {
    return value;
  } else if constexpr (is_optional<T>) {
    return value ? write(*value) : Json();
  } else if constexpr (is_vector<T>) {
    Json array = Json::array();
    for (const auto& element : value) array.push_back(write(element));
    return array;
  } else {
    Json object = Json::object();
    fields(value, [&](const char* name, const auto& member, const char*) { object[name] = write(member); });
    return object;
  }
}

template <typename T>
std::string dump(const T& value) {
  return write(value).dump(2, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace) + "\n";
}

// ---- in

Status wrong_type(const std::string& path, const char* expected, const Json& json) {
  return bad_input(
      fmt::format("report: {} should be {}, not {}", path.empty() ? "the whole" : path, expected, json.type_name()));
}

template <typename T>
Status read(const Json& json, const std::string& path, T& value) {
  if constexpr (std::is_same_v<T, Json>) {
    value = json;
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!json.is_string()) return wrong_type(path, "a string", json);
    value = json.get<std::string>();
  } else if constexpr (std::is_same_v<T, bool>) {
    if (!json.is_boolean()) return wrong_type(path, "true or false", json);
    value = json.get<bool>();
  } else if constexpr (std::is_floating_point_v<T>) {
    if (json.is_null()) {  // JSON has no NaN and no infinity: they are written as null
      value = std::numeric_limits<T>::quiet_NaN();
      return ok_status();
    }
    if (!json.is_number()) return wrong_type(path, "a number", json);
    value = json.get<T>();
  } else if constexpr (std::is_unsigned_v<T>) {
    if (!json.is_number_unsigned()) return wrong_type(path, "a whole number", json);
    value = json.get<T>();
  } else if constexpr (std::is_integral_v<T>) {
    const bool too_large = json.is_number_unsigned() && json.get<uint64_t>() > uint64_t{std::numeric_limits<T>::max()};
    if (!json.is_number_integer() || too_large) return wrong_type(path, "a 64-bit whole number", json);
    value = json.get<T>();
  } else if constexpr (is_optional<T>) {
    value.reset();
    if (json.is_null()) return ok_status();
    typename T::value_type inner{};
    AUTOGLM_RETURN_IF_ERROR(read(json, path, inner));
    value = std::move(inner);
  } else if constexpr (is_vector<T>) {
    if (!json.is_array()) return wrong_type(path, "a list", json);
    value.clear();
    for (size_t i = 0; i < json.size(); ++i) {
      AUTOGLM_RETURN_IF_ERROR(read(json[i], fmt::format("{}[{}]", path, i), value.emplace_back()));
    }
  } else {
    if (!json.is_object()) return wrong_type(path, "an object", json);
    Status status;
    fields(value, [&](const char* name, auto& member, const char*) {
      const auto found = json.find(name);
      if (!status.ok() || found == json.end()) return;
      status = read(*found, path.empty() ? name : path + "." + name, member);
    });
    return status;
  }
  return ok_status();
}

template <typename T>
Result<T> parse(std::string_view text) {
  AUTOGLM_ASSIGN_OR_RETURN(const Json json, format::parse_json(text));
  T value;
  AUTOGLM_RETURN_IF_ERROR(read(json, "", value));
  return value;
}

// ---- schema

template <typename T>
std::string type_name() {
  if constexpr (std::is_same_v<T, Json>) return "any";
  if constexpr (std::is_same_v<T, std::string>) return "string";
  if constexpr (std::is_same_v<T, bool>) return "boolean";
  if constexpr (std::is_floating_point_v<T>) return "number";
  if constexpr (std::is_integral_v<T>) return "integer";
  if constexpr (is_optional<T>) return type_name<typename T::value_type>() + " or null";
  if constexpr (is_vector<T>) return "list of " + type_name<typename T::value_type>();
  return "object";
}

/// The struct inside optionals and lists; T itself where it is neither.
template <typename T>
struct Inner {
  using Type = T;
};
template <typename T>
struct Inner<std::optional<T>> : Inner<T> {};
template <typename T>
struct Inner<std::vector<T>> : Inner<T> {};

template <typename T>
void describe(const std::string& path, std::string& out) {
  T value;
  fields(value, [&](const char* name, auto& member, const char* meaning) {
    using Member = std::remove_reference_t<decltype(member)>;
    using Struct = typename Inner<Member>::Type;
    const std::string here = path + name + (is_vector<Member> ? "[]" : "");
    out += fmt::format("| `{}` | {} | {} |\n", here, type_name<Member>(), meaning);
    if constexpr (!is_plain<Struct>) describe<Struct>(here + ".", out);
  });
}

}  // namespace

std::string to_json(const Report& report) { return dump(report); }
std::string to_json(const Evaluation& evaluation) { return dump(evaluation); }

Result<Report> report_from_json(std::string_view json) {
  AUTOGLM_ASSIGN_OR_RETURN(Report report, parse<Report>(json));
  if (report.schema_version > kReportSchemaVersion) {
    return bad_input(
        fmt::format("report: schema_version {} is newer than {}, the newest this program reads; use the "
                    "program that wrote it",
                    report.schema_version, kReportSchemaVersion));
  }
  return report;
}

Result<Evaluation> evaluation_from_json(std::string_view json) { return parse<Evaluation>(json); }

std::string report_schema() {
  std::string out = "| member | type | meaning |\n|---|---|---|\n";
  describe<Report>("", out);
  return out;
}

}  // namespace autoglm::eval
