#pragma once
/// The table of config.json's plain fields; ModelConfig reads, writes, validates and prints by it.
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/base/status.h"
#include "core/format/model_config.h"

namespace autoglm::format {

/// A set of families, one bit each.
using Families = unsigned;
constexpr Families only(Family family) { return 1U << static_cast<unsigned>(family); }
constexpr bool contains(Families set, Family family) { return (set & only(family)) != 0; }

/// What transformers' configuration class of `families` takes when the key is absent; 0 for a count that is then
/// derived from others, false and true as 0 and 1.
struct Default {
  Families families;
  double value;
};

struct Field {
  std::string_view key;    ///< transformers' name
  std::string_view alias;  ///< chatglm's only name; for the others a second name that is accepted
  std::variant<int64_t ModelConfig::*, double ModelConfig::*, bool ModelConfig::*> member;
  Families families;              ///< those whose config.json has it; in the others the member is a fixed trait
  double minimum, maximum;        ///< inclusive; sizes are bounded so that no later product of a few overflows
  std::vector<Default> defaults;  ///< the first that names the family; none: the key is required
};

/// Every field, in the order in which they are printed.
std::span<const Field> fields();

/// Reads one field from `object` into `config` (whose family is set). kBadInput names the key.
Status read_field(const Field& field, const nlohmann::ordered_json& object, ModelConfig& config);

/// The member's value as JSON.
nlohmann::ordered_json field_value(const Field& field, const ModelConfig& config);

/// Typed and bounded reading of one member. `object[key]` must exist; kBadInput says what it is and what it should be.
Result<int64_t> read_integer(const nlohmann::ordered_json& object, std::string_view key, int64_t minimum,
                             int64_t maximum);
Result<double> read_number(const nlohmann::ordered_json& object, std::string_view key, double minimum, double maximum);
Result<bool> read_bool(const nlohmann::ordered_json& object, std::string_view key);

/// True when `object` has a member `key` that is not null.
bool has(const nlohmann::ordered_json& object, std::string_view key);

/// A value of the file on one short line, for messages: JSON, cut at 60 bytes.
std::string show(const nlohmann::ordered_json& value);

/// A word of the file for messages that put it in quotes themselves.
std::string bare(std::string_view word);

}  // namespace autoglm::format
