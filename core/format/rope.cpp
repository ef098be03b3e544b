#include "core/format/rope.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <numeric>
#include <string>
#include <string_view>

#include "core/base/suggest.h"
#include "core/format/config_fields.h"
#include "core/format/display.h"

namespace autoglm::format {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kMaxFactor = 1e6;
constexpr double kMaxPositions = 1 << 30;
constexpr char kOriginalLength[] = "original_max_position_embeddings";

enum class Kind { kNumber, kBool, kPerPair };  // kPerPair: a list of rotary_dim / 2 numbers

/// One parameter of a rope type.
struct Parameter {
  std::string_view type, key;
  bool required;
  double minimum, maximum;
  Kind kind = Kind::kNumber;
};

constexpr double kTiny = 1e-6;
constexpr Parameter kParameters[] = {
    {"linear", "factor", true, kTiny, kMaxFactor},
    {"dynamic", "factor", true, 1, kMaxFactor},
    {"yarn", "factor", false, kTiny, kMaxFactor},
    {"yarn", "attention_factor", false, 0, kMaxFactor},
    {"yarn", "beta_fast", false, 0, kMaxFactor},
    {"yarn", "beta_slow", false, 0, kMaxFactor},
    {"yarn", "mscale", false, 0, kMaxFactor},
    {"yarn", "mscale_all_dim", false, 0, kMaxFactor},
    {"yarn", "truncate", false, 0, 1, Kind::kBool},
    {"yarn", kOriginalLength, false, 1, kMaxPositions},
    {"llama3", "factor", true, kTiny, kMaxFactor},
    {"llama3", "low_freq_factor", true, kTiny, kMaxFactor},
    {"llama3", "high_freq_factor", true, kTiny, kMaxFactor},
    {"llama3", kOriginalLength, false, 1, kMaxPositions},
    {"longrope", "factor", false, kTiny, kMaxFactor},
    {"longrope", "attention_factor", false, 0, kMaxFactor},
    {"longrope", "short_factor", true, kTiny, kMaxFactor, Kind::kPerPair},
    {"longrope", "long_factor", true, kTiny, kMaxFactor, Kind::kPerPair},
    {"longrope", kOriginalLength, false, 2, kMaxPositions},
};

const std::vector<std::string>& known_types() {
  static const std::vector<std::string> types = {"default", "linear", "dynamic", "yarn", "llama3", "longrope"};
  return types;
}

Status check_per_pair(const Parameter& parameter, const Json& values, size_t pairs) {
  if (!values.is_array() || values.size() != pairs) {
    return bad_input(fmt::format("{} must be a list of {} numbers, one for each rotated pair", parameter.key, pairs));
  }
  for (size_t i = 0; i < pairs; ++i) {
    if (!values[i].is_number() || !(values[i].get<double>() >= parameter.minimum) ||
        !(values[i].get<double>() <= parameter.maximum)) {
      return bad_input(fmt::format("{}[{}] is {}, must be a number from {:g} to {:g}", parameter.key, i,
                                   show(values[i]), parameter.minimum, parameter.maximum));
    }
  }
  return ok_status();
}

Status check_parameters(const ModelConfig& config) {
  const Json& rope = config.rope_parameters;
  for (const Parameter& parameter : kParameters) {
    if (parameter.type != config.rope_type) continue;
    if (!has(rope, parameter.key)) {
      if (!parameter.required) continue;
      return bad_input(fmt::format("{} is missing, rope type '{}' needs it", parameter.key, config.rope_type));
    }
    switch (parameter.kind) {
      case Kind::kNumber:
        AUTOGLM_RETURN_IF_ERROR(read_number(rope, parameter.key, parameter.minimum, parameter.maximum).status());
        break;
      case Kind::kBool: AUTOGLM_RETURN_IF_ERROR(read_bool(rope, parameter.key).status()); break;
      case Kind::kPerPair:
        AUTOGLM_RETURN_IF_ERROR(
            check_per_pair(parameter, rope.at(std::string(parameter.key)), static_cast<size_t>(config.rotary_dim / 2)));
        break;
    }
  }
  if (config.rope_type == "llama3" &&
      rope.at("high_freq_factor").get<double>() <= rope.at("low_freq_factor").get<double>()) {
    return bad_input("high_freq_factor must be greater than low_freq_factor");
  }
  if (config.rope_type == "dynamic" && config.rotary_dim <= 2) {
    return bad_input("rope type 'dynamic' needs more than one rotated pair");
  }
  return ok_status();
}

Status read_mrope_section(ModelConfig& config) {
  const Json& rope = config.rope_parameters;
  config.mrope_section = {8, 12, 12};  // what transformers' Glm4vTextRotaryEmbedding takes
  if (has(rope, "mrope_section")) {
    const Json& section = rope.at("mrope_section");
    if (!section.is_array() || section.empty() || section.size() > 64) {
      return bad_input("mrope_section must be a list of whole numbers");
    }
    config.mrope_section.clear();
    for (const Json& entry : section) {
      AUTOGLM_ASSIGN_OR_RETURN(const int64_t pairs, read_integer(Json{{"mrope_section's entry", entry}},
                                                                 "mrope_section's entry", 0, 1 << 16));
      config.mrope_section.push_back(pairs);
    }
  }
  const int64_t sum = std::accumulate(config.mrope_section.begin(), config.mrope_section.end(), int64_t{0});
  if (sum == config.rotary_dim / 2) return ok_status();
  return bad_input(fmt::format("mrope_section adds up to {}, must be {}: half of the {} rotated dimensions of a head",
                               sum, config.rotary_dim / 2, config.rotary_dim));
}

/// Where config.json says nothing, ChatGLM's code rotates half of a head, with 10000 * rope_ratio.
Result<Json> chatglm_parameters(const Json& object) {
  double ratio = 1;
  if (has(object, "rope_ratio")) {
    AUTOGLM_ASSIGN_OR_RETURN(ratio, read_number(object, "rope_ratio", 1e-3, 1e6));
  }
  return Json{{"rope_type", "default"}, {"rope_theta", 10000.0 * ratio}, {"partial_rotary_factor", 0.5}};
}

/// One object with everything, as transformers' `standardize_rope_params` makes it: rope_scaling stands for
/// rope_parameters in old files, and rope_theta and partial_rotary_factor beside it fill what it lacks.
Result<Json> standard_parameters(const Json& object, double default_partial, int64_t max_position_embeddings) {
  Json rope = Json::object();
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!has(object, key)) continue;
    if (!object[key].is_object()) {
      return bad_input(fmt::format("{} is {}, must be an object or null", key, show(object[key])));
    }
    if (object[key].empty()) continue;
    rope = object[key];
    break;
  }
  for (const auto& [key, value] : rope.items()) {
    if (!value.is_object()) continue;
    return bad_input(fmt::format("rope_parameters has {} for layers of one type: one set for all layers is supported",
                                 display(key)));
  }
  if (!has(rope, "rope_type")) rope["rope_type"] = has(rope, "type") ? rope["type"] : Json("default");
  if (!has(rope, "rope_theta")) rope["rope_theta"] = has(object, "rope_theta") ? object["rope_theta"] : Json(10000.0);
  if (!has(rope, "partial_rotary_factor")) {
    if (has(object, "partial_rotary_factor")) {
      rope["partial_rotary_factor"] = object["partial_rotary_factor"];
    } else if (default_partial != 1) {
      rope["partial_rotary_factor"] = default_partial;
    }
  }
  if (const Json& type = rope["rope_type"]; type == "yarn" || type == "llama3" || type == "longrope") {
    if (has(object, kOriginalLength)) {
      rope[kOriginalLength] = object[kOriginalLength];
    } else if (!has(rope, kOriginalLength)) {
      rope[kOriginalLength] = max_position_embeddings;
    }
  }
  return rope;
}

/// A parameter that read_rope has checked, or `fallback` where it is absent or null.
double parameter(const ModelConfig& config, const char* key, double fallback = 0) {
  return has(config.rope_parameters, key) ? config.rope_parameters[key].get<double>() : fallback;
}

/// How much longer than the trained length positions may grow.
double extension(const ModelConfig& config) {
  return parameter(config, "factor",
                   static_cast<double>(config.max_position_embeddings) / parameter(config, kOriginalLength, 1));
}

/// Equation 17 and section 3.2 of the YaRN paper, as transformers computes them.
void scale_yarn(const ModelConfig& config, std::vector<double>& frequencies) {
  const double dim = static_cast<double>(config.rotary_dim);
  const double length = parameter(config, kOriginalLength);
  // The pair whose wavelength fits `rotations` times into the trained length.
  const auto correction = [&](double rotations) {
    return dim * std::log(length / (rotations * 2 * std::numbers::pi)) / (2 * std::log(config.rope_theta));
  };
  const auto positive_or = [&](const char* key, double fallback) {
    const double value = parameter(config, key);
    return value == 0 ? fallback : value;
  };
  double low = correction(positive_or("beta_fast", 32));
  double high = correction(positive_or("beta_slow", 1));
  const Json& rope = config.rope_parameters;
  if (!has(rope, "truncate") || rope["truncate"].get<bool>()) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;

  const double factor = extension(config);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / factor * ramp + frequencies[i] * (1 - ramp);
  }
}

void scale_llama3(const ModelConfig& config, std::vector<double>& frequencies) {
  const double factor = parameter(config, "factor");
  const double low = parameter(config, "low_freq_factor");
  const double high = parameter(config, "high_freq_factor");
  const double length = parameter(config, kOriginalLength);
  for (double& frequency : frequencies) {
    const double rotations = length * frequency / (2 * std::numbers::pi);  // in the trained length
    if (rotations > high) continue;
    const double smooth = rotations < low ? 0 : (rotations - low) / (high - low);
    frequency = (1 - smooth) * frequency / factor + smooth * frequency;
  }
}

void scale_longrope(const ModelConfig& config, int64_t sequence_length, std::vector<double>& frequencies) {
  const bool is_long = static_cast<double>(sequence_length) > parameter(config, kOriginalLength);
  const Json& factors = config.rope_parameters.at(is_long ? "long_factor" : "short_factor");
  for (size_t i = 0; i < frequencies.size(); ++i) frequencies[i] /= factors[i].get<double>();
}

}  // namespace

Status read_rope(const Json& object, double default_partial, ModelConfig& config) {
  AUTOGLM_ASSIGN_OR_RETURN(config.rope_parameters,
                           config.family == Family::kChatGlm
                               ? chatglm_parameters(object)
                               : standard_parameters(object, default_partial, config.max_position_embeddings));
  const Json& rope = config.rope_parameters;

  if (!rope["rope_type"].is_string()) {
    return bad_input(fmt::format("rope_type is {}, must be a word", show(rope["rope_type"])));
  }
  config.rope_type = rope["rope_type"].get<std::string>();
  if (std::find(known_types().begin(), known_types().end(), config.rope_type) == known_types().end()) {
    return bad_input(unknown_word("rope_type", bare(config.rope_type), known_types()));
  }
  // At theta = 1 all frequencies are one and yarn's logarithm vanishes.
  AUTOGLM_ASSIGN_OR_RETURN(config.rope_theta, read_number(rope, "rope_theta", 1.001, 1e15));

  double partial = 1;
  if (has(rope, "partial_rotary_factor")) {
    AUTOGLM_ASSIGN_OR_RETURN(partial, read_number(rope, "partial_rotary_factor", 0, 1));
  }
  if (default_partial == 1 && partial != 1 && config.family != Family::kGlm4v) {
    return bad_input(fmt::format("partial_rotary_factor is {:g}, but a {} model rotates whole heads", partial,
                                 to_string(config.family)));
  }
  config.rotary_dim = static_cast<int64_t>(static_cast<double>(config.head_dim) * partial);
  if (config.rotary_dim < 2 || config.rotary_dim % 2 != 0) {
    return bad_input(
        fmt::format("partial_rotary_factor {:g} of head_dim {} gives {} rotated dimensions, must be even and "
                    "at least 2",
                    partial, config.head_dim, config.rotary_dim));
  }
  if (config.family == Family::kGlm4v) AUTOGLM_RETURN_IF_ERROR(read_mrope_section(config));
  return check_parameters(config);
}

bool has_fixed_frequencies(const ModelConfig& config) {
  return config.rope_type != "dynamic" && config.rope_type != "longrope";
}

std::vector<double> rope_inverse_frequencies(const ModelConfig& config, int64_t sequence_length) {
  const double dim = static_cast<double>(config.rotary_dim);
  double theta = config.rope_theta;
  if (config.rope_type == "dynamic") {
    const double trained = static_cast<double>(config.max_position_embeddings);
    const double length = std::max(static_cast<double>(sequence_length), trained);
    const double factor = parameter(config, "factor");
    theta *= std::pow(factor * length / trained - (factor - 1), dim / (dim - 2));
  }
  std::vector<double> frequencies(static_cast<size_t>(config.rotary_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) frequencies[i] = std::pow(theta, -2.0 * static_cast<double>(i) / dim);

  if (config.rope_type == "linear") {
    for (double& frequency : frequencies) frequency /= parameter(config, "factor");
  } else if (config.rope_type == "yarn") {
    scale_yarn(config, frequencies);
  } else if (config.rope_type == "llama3") {
    scale_llama3(config, frequencies);
  } else if (config.rope_type == "longrope") {
    scale_longrope(config, sequence_length, frequencies);
  }
  return frequencies;
}

double rope_attention_scaling(const ModelConfig& config) {
  const bool yarn = config.rope_type == "yarn";
  if (!yarn && config.rope_type != "longrope") return 1;
  if (has(config.rope_parameters, "attention_factor")) return parameter(config, "attention_factor");
  const double factor = extension(config);
  if (!yarn) return factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(parameter(config, kOriginalLength)));

  const auto scaled = [&](double mscale) { return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1; };
  const double mscale = parameter(config, "mscale");
  const double mscale_all = parameter(config, "mscale_all_dim");
  return mscale != 0 && mscale_all != 0 ? scaled(mscale) / scaled(mscale_all) : scaled(1);
}

}  // namespace autoglm::format
