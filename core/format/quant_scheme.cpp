#include "core/format/quant_scheme.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "core/format/display.h"
#include "core/format/target_match.h"

namespace autoglm::format {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kMethod = "compressed-tensors";
constexpr std::array kStrategies = {std::pair{Strategy::kTensor, "tensor"}, std::pair{Strategy::kChannel, "channel"},
                                    std::pair{Strategy::kGroup, "group"}, std::pair{Strategy::kToken, "token"}};
constexpr int64_t kMaxGroupSize = int64_t{1} << 31;

/// The member, or nullptr when it is absent or null (compressed-tensors takes both as "not given").
const Json* member(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

/// A JSON value for a message.
std::string show(const Json& value) {
  return display(
      value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, Json::error_handler_t::replace), 60);
}

Json other_members(const Json& object, std::initializer_list<std::string_view> known) {
  Json others;
  for (const auto& [name, value] : object.items()) {
    if (std::find(known.begin(), known.end(), name) == known.end()) others[name] = value;
  }
  return others;
}

Status read_bool(const Json& object, const char* name, bool& out) {
  const Json* value = member(object, name);
  if (value == nullptr) return ok_status();
  if (!value->is_boolean())
    return bad_input(fmt::format("{} is {}, only true and false are supported", name, show(*value)));
  out = value->get<bool>();
  return ok_status();
}

/// Leaves `out` alone when the member is absent.
Status read_integer(const Json& object, const char* name, int64_t min, int64_t max, int64_t& out) {
  const Json* value = member(object, name);
  if (value == nullptr) return ok_status();
  const bool integer =
      value->is_number_integer() && !(value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX);
  const int64_t number = integer ? value->get<int64_t>() : 0;
  if (!integer || number < min || number > max) {
    return bad_input(fmt::format("{} is {}, but must be {} to {}", name, show(*value), min, max));
  }
  out = number;
  return ok_status();
}

Result<std::vector<std::string>> read_targets(const Json& value) {
  if (!value.is_array()) return bad_input("is no list of names");
  std::vector<std::string> targets;
  for (const Json& item : value) {
    if (!item.is_string()) return bad_input(fmt::format("has {}, which is no name", show(item)));
    targets.push_back(item.get<std::string>());
    AUTOGLM_RETURN_IF_ERROR(check_target(targets.back()));
  }
  return targets;
}

Result<Strategy> read_strategy(const Json& object, int64_t group_size) {
  const Json* value = member(object, "strategy");
  if (value == nullptr) {  // inferred as compressed-tensors does; -1 stands for channel
    if (member(object, "group_size") == nullptr) return Strategy::kTensor;
    return group_size > 0 ? Strategy::kGroup : Strategy::kChannel;
  }
  if (value->is_string()) {
    const std::string name = lower(value->get<std::string>());
    for (const auto& [strategy, text] : kStrategies) {
      if (name == text) return strategy;
    }
  }
  return bad_input(
      fmt::format("strategy is {}, but only tensor, channel, group and token are supported", show(*value)));
}

Result<QuantArgs> parse_args(const Json& json) {
  if (!json.is_object()) return bad_input("is no object");
  QuantArgs args;
  if (const Json* type = member(json, "type");
      type != nullptr && (!type->is_string() || lower(type->get<std::string>()) != "int")) {
    return bad_input(fmt::format("type is {}, but only int is supported", show(*type)));
  }
  int64_t num_bits = args.num_bits;
  AUTOGLM_RETURN_IF_ERROR(read_integer(json, "num_bits", 1, 8, num_bits));
  args.num_bits = static_cast<int>(num_bits);
  AUTOGLM_RETURN_IF_ERROR(read_bool(json, "symmetric", args.symmetric));
  AUTOGLM_RETURN_IF_ERROR(read_bool(json, "dynamic", args.dynamic));
  AUTOGLM_RETURN_IF_ERROR(read_integer(json, "group_size", -1, kMaxGroupSize, args.group_size));
  AUTOGLM_ASSIGN_OR_RETURN(args.strategy, read_strategy(json, args.group_size));
  if ((args.strategy == Strategy::kGroup) != (args.group_size > 0)) {
    return bad_input(fmt::format("strategy {} contradicts group_size {}", to_string(args.strategy), args.group_size));
  }
  args.group_size = std::max<int64_t>(args.group_size, 0);
  if (const Json* order = member(json, "actorder"); order != nullptr && *order != false) {
    const std::string name = order->is_string() ? lower(order->get<std::string>()) : "";
    if (name != "weight" && name != "static") {
      return bad_input(
          fmt::format("actorder is {}: columns stored in another order (weight_g_idx) are not supported, only weight "
                      "and static are",
                      show(*order)));
    }
  }
  args.extra = other_members(json, {"num_bits", "type", "symmetric", "group_size", "strategy", "dynamic"});
  return args;
}

Json args_to_json(const QuantArgs& args) {
  Json json = {{"num_bits", args.num_bits},
               {"type", "int"},
               {"symmetric", args.symmetric},
               {"group_size", args.strategy == Strategy::kGroup ? Json(args.group_size) : Json(nullptr)},
               {"strategy", to_string(args.strategy)},
               {"dynamic", args.dynamic}};
  if (args.extra.is_object()) json.update(args.extra);
  return json;
}

/// The groups that compressed-tensors knows by name ("W4A16"), integer ones only (quant_scheme.py, PRESET_SCHEMES).
Result<QuantScheme> preset(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  QuantScheme scheme;
  if (name == "UNQUANTIZED") return scheme;
  const bool asymmetric = name == "W4A16_ASYM";
  if (name == "INT8") name = "W8A8";
  if (asymmetric) name = "W4A16";
  const bool weight_digit = name.size() >= 4 && name[0] == 'W' && name[1] >= '2' && name[1] <= '8' && name[2] == 'A';
  const std::string activations = weight_digit ? name.substr(3) : "";
  const int bits = weight_digit ? name[1] - '0' : 0;
  if (!weight_digit || (activations != "4" && activations != "8" && activations != "16") ||
      std::stoi(activations) < bits) {
    return bad_input(
        "is a preset that is unknown or not of integers; W2A16 to W8A16, W2A8 to W8A8, W4A16_ASYM and INT8 are read");
  }
  scheme.weights =
      QuantArgs{.num_bits = bits, .symmetric = !asymmetric, .strategy = Strategy::kGroup, .group_size = 128};
  if (name == "W8A8") scheme.weights = QuantArgs{.num_bits = 8, .strategy = Strategy::kChannel};
  if (activations != "16") {
    scheme.input_activations =
        QuantArgs{.num_bits = std::stoi(activations), .strategy = Strategy::kToken, .dynamic = true};
  }
  return scheme;
}

Status check_format(std::string_view format) {
  if (format == kPackQuantized || format == kIntQuantized || format == kNaiveQuantized) return ok_status();
  return bad_input(fmt::format("format is {}, but only {}, {} and {} are supported", display(format), kPackQuantized,
                               kIntQuantized, kNaiveQuantized));
}

Result<QuantScheme> parse_scheme(const std::string& group, const Json& json) {
  QuantScheme scheme;
  if (json.is_array()) {
    AUTOGLM_ASSIGN_OR_RETURN(scheme, preset(group));
    AUTOGLM_ASSIGN_OR_RETURN(scheme.targets, read_targets(json));
    return scheme;
  }
  if (!json.is_object()) return bad_input("is no object");
  for (const auto& [name, value] : json.items()) {
    const bool known = name == "targets" || name == "weights" || name == "input_activations" || name == "format";
    if (known || value.is_null()) continue;
    if (name == "output_activations") return bad_input("output_activations are not supported");
    return bad_input("has an unknown member " + display(name));
  }
  const Json* targets = member(json, "targets");
  if (targets == nullptr) return bad_input("has no targets");
  auto names = read_targets(*targets);
  if (!names.ok()) return names.status().with_context("targets");
  scheme.targets = std::move(*names);
  for (const auto& [name, side] :
       {std::pair{"weights", &scheme.weights}, std::pair{"input_activations", &scheme.input_activations}}) {
    const Json* value = member(json, name);
    if (value == nullptr) continue;
    auto args = parse_args(*value);
    if (!args.ok()) return args.status().with_context(name);
    *side = std::move(*args);
  }
  if (scheme.weights && (scheme.weights->strategy == Strategy::kToken || scheme.weights->dynamic)) {
    return bad_input("weights: cannot be dynamic or per token");
  }
  if (!scheme.weights && scheme.input_activations)
    return bad_input("quantizes activations alone, which is not supported");
  if (const Json* format = member(json, "format")) {
    if (!format->is_string()) return bad_input("format is no name");
    scheme.format = format->get<std::string>();
    if (scheme.weights) AUTOGLM_RETURN_IF_ERROR(check_format(scheme.format));
  }
  return scheme;
}

/// Members that would change how weights are to be read, if they said something.
Status check_other_methods(const Json& json) {
  if (const Json* sparsity = member(json, "sparsity_config"); sparsity != nullptr && !sparsity->empty()) {
    const Json* format = sparsity->is_object() ? member(*sparsity, "format") : nullptr;
    if (format == nullptr || *format != "dense")
      return bad_input(fmt::format("sparsity_config {} is not supported", show(*sparsity)));
  }
  if (const Json* transform = member(json, "transform_config"); transform != nullptr && !transform->empty()) {
    return bad_input("transform_config (rotations at run time) is not supported");
  }
  return ok_status();
}

}  // namespace

std::string_view to_string(Strategy strategy) {
  for (const auto& [value, text] : kStrategies) {
    if (value == strategy) return text;
  }
  return "unknown";
}

std::string describe(const QuantScheme& scheme) {
  const auto side = [](const QuantArgs& args) {
    return fmt::format(
        "INT{} {} {}", args.num_bits,
        args.strategy == Strategy::kGroup ? fmt::format("g{}", args.group_size) : std::string(to_string(args.strategy)),
        args.symmetric ? "symmetric" : "asymmetric");
  };
  std::string out = scheme.weights ? side(*scheme.weights) : "float";
  if (scheme.input_activations) out += ", activations " + side(*scheme.input_activations);
  return out;
}

Result<QuantConfig> QuantConfig::parse(const Json& json) {
  if (!json.is_object()) return bad_input("quantization_config is no object");
  const Json* method = member(json, "quant_method");
  if (method != nullptr && *method != kMethod) {
    return bad_input(fmt::format(
        "quantization_config: quant_method is {}, but only {} is read; start from the model's float weights",
        show(*method), kMethod));
  }
  const auto in = [](std::string_view where, const Status& status) {
    return status.with_context(fmt::format("quantization_config: {}", where));
  };

  QuantConfig config;
  const Json* format = member(json, "format");
  if (format == nullptr || !format->is_string()) return bad_input("quantization_config: has no format");
  config.format = format->get<std::string>();
  const bool inferred = config.format == kMixedPrecision;
  if (!inferred) {
    if (Status status = check_format(config.format); !status.ok()) return status.with_context("quantization_config");
  }
  if (Status status = check_other_methods(json); !status.ok()) return status.with_context("quantization_config");

  const Json* groups = member(json, "config_groups");
  if (groups == nullptr || !groups->is_object()) return bad_input("quantization_config: has no object config_groups");
  for (const auto& [name, value] : groups->items()) {
    auto scheme = parse_scheme(name, value);
    if (!scheme.ok()) return in("config_groups " + display(name), scheme.status());
    if (inferred && scheme->format.empty()) {  // as compressed-tensors infers it (compressors/format.py)
      scheme->format = scheme->input_activations ? kIntQuantized : kPackQuantized;
    }
    config.config_groups.emplace_back(name, std::move(*scheme));
  }
  if (const Json* ignore = member(json, "ignore")) {
    auto names = read_targets(*ignore);
    if (!names.ok()) return in("ignore", names.status());
    config.ignore = std::move(*names);
  }
  config.extra = other_members(json, {"quant_method", "format", "config_groups", "ignore"});
  return config;
}

Json QuantConfig::to_json() const {
  Json groups = Json::object();
  for (const auto& [name, scheme] : config_groups) {
    const auto side = [](const std::optional<QuantArgs>& args) { return args ? args_to_json(*args) : Json(nullptr); };
    groups[name] = {{"targets", scheme.targets},
                    {"weights", side(scheme.weights)},
                    {"input_activations", side(scheme.input_activations)},
                    {"output_activations", nullptr},
                    {"format", scheme.format.empty() ? Json(nullptr) : Json(scheme.format)}};
  }
  Json json = {{"quant_method", kMethod}, {"format", format}};
  json["config_groups"] = std::move(groups);
  json["ignore"] = ignore;
  if (!extra.is_object() || !extra.contains("quantization_status")) json["quantization_status"] = "compressed";
  if (extra.is_object()) json.update(extra);
  return json;
}

const QuantScheme* QuantConfig::scheme_for(std::string_view name, std::string_view type) const {
  const std::string* best_target = nullptr;
  TargetMatch best_match = TargetMatch::kNone;
  const QuantScheme* best = nullptr;
  for (const auto& [group, scheme] : config_groups) {
    for (const std::string& target : scheme.targets) {
      const TargetMatch match = match_target(target, name, type);
      if (match == TargetMatch::kNone || match < best_match) continue;
      if (match == best_match && target > *best_target) continue;
      best_target = &target, best_match = match, best = &scheme;
    }
  }
  if (best == nullptr || !best->weights) return nullptr;
  const bool ignored = std::any_of(ignore.begin(), ignore.end(), [&](const std::string& target) {
    return match_target(target, name, type) != TargetMatch::kNone;
  });
  return ignored ? nullptr : best;
}

}  // namespace autoglm::format
