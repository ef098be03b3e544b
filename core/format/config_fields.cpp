#include "core/format/config_fields.h"

#include <fmt/format.h>

#include <cmath>

#include "core/format/display.h"

namespace autoglm::format {
namespace {

using Json = nlohmann::ordered_json;

constexpr Families kChatGlm = only(Family::kChatGlm), kGlm = only(Family::kGlm), kGlm4 = only(Family::kGlm4),
                   kGlm4v = only(Family::kGlm4v), kGlm4Moe = only(Family::kGlm4Moe), kLlama = only(Family::kLlama),
                   kQwen2 = only(Family::kQwen2), kQwen3 = only(Family::kQwen3);
constexpr Families kAll = kChatGlm | kGlm | kGlm4 | kGlm4v | kGlm4Moe | kLlama | kQwen2 | kQwen3;

constexpr double kMaxWidth = 1 << 20;  // hidden, intermediate
constexpr double kMaxVocab = 1 << 24;
constexpr double kMaxHeads = 1 << 14;
constexpr double kMaxHeadDim = 1 << 12;
constexpr double kMaxLayers = 1 << 12;
constexpr double kMaxExperts = 1 << 14;
constexpr double kMaxPositions = 1 << 30;

}  // namespace

std::span<const Field> fields() {
  using C = ModelConfig;
  // clang-format off
  static const std::vector<Field> table = {
      {"vocab_size", "padded_vocab_size", &C::vocab_size, kAll, 1, kMaxVocab, {}},
      {"hidden_size", "hidden_size", &C::hidden_size, kAll, 1, kMaxWidth, {}},
      {"intermediate_size", "ffn_hidden_size", &C::intermediate_size, kAll, 1, kMaxWidth, {}},
      {"num_hidden_layers", "num_layers", &C::num_hidden_layers, kAll, 1, kMaxLayers, {}},
      {"num_attention_heads", "num_attention_heads", &C::num_attention_heads, kAll, 1, kMaxHeads, {}},
      {"num_key_value_heads", "multi_query_group_num", &C::num_key_value_heads, kAll, 1, kMaxHeads,
       {{kChatGlm, 1}, {kGlm | kGlm4 | kGlm4v, 2}, {kGlm4Moe, 8}, {kQwen2 | kQwen3, 32}, {kLlama, 0}}},
      {"head_dim", "kv_channels", &C::head_dim, kAll, 2, kMaxHeadDim,
       {{kChatGlm | kGlm | kGlm4 | kQwen3, 128}, {kAll, 0}}},
      {"max_position_embeddings", "seq_length", &C::max_position_embeddings, kAll, 1, kMaxPositions,
       {{kChatGlm | kLlama, 2048}, {kGlm | kGlm4 | kGlm4Moe, 131072}, {kAll, 32768}}},
      {"rms_norm_eps", "layernorm_epsilon", &C::rms_norm_eps, kAll, 0, 1,
       {{kGlm | kGlm4, 1.5625e-7}, {kLlama | kQwen2 | kQwen3, 1e-6}, {kAll, 1e-5}}},
      {"attention_bias", "add_qkv_bias", &C::attention_bias, kAll & ~(kGlm4v | kQwen2), 0, 1,
       {{kGlm | kGlm4, true}, {kAll, false}}},
      {"mlp_bias", "", &C::mlp_bias, kLlama, 0, 1, {{kAll, false}}},
      {"tie_word_embeddings", "tie_word_embeddings", &C::tie_word_embeddings, kAll, 0, 1, {{kAll, false}}},
      {"use_qk_norm", "", &C::qk_norm, kGlm4Moe, 0, 1, {{kAll, false}}},

      {"n_routed_experts", "num_local_experts", &C::n_routed_experts, kGlm4Moe, 1, kMaxExperts, {}},
      {"num_experts_per_tok", "", &C::num_experts_per_tok, kGlm4Moe, 1, kMaxExperts, {}},
      {"moe_intermediate_size", "", &C::moe_intermediate_size, kGlm4Moe, 1, kMaxWidth, {}},
      {"n_shared_experts", "", &C::n_shared_experts, kGlm4Moe, 0, kMaxExperts, {{kAll, 1}}},
      {"first_k_dense_replace", "", &C::first_k_dense_replace, kGlm4Moe, 0, kMaxLayers, {{kAll, 1}}},
      {"n_group", "", &C::n_group, kGlm4Moe, 1, kMaxExperts, {{kAll, 1}}},
      {"topk_group", "", &C::topk_group, kGlm4Moe, 1, kMaxExperts, {{kAll, 1}}},
      {"norm_topk_prob", "", &C::norm_topk_prob, kGlm4Moe, 0, 1, {{kAll, true}}},
      {"routed_scaling_factor", "", &C::routed_scaling_factor, kGlm4Moe, 0, 1e6, {{kAll, 1}}},
      {"num_nextn_predict_layers", "num_mtp_layers", &C::num_nextn_predict_layers, kGlm4Moe, 0, kMaxLayers,
       {{kAll, 1}}},
  };
  // clang-format on
  return table;
}

bool has(const Json& object, std::string_view key) {
  const auto found = object.find(std::string(key));
  return found != object.end() && !found->is_null();
}

std::string show(const Json& value) {
  const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() <= 60 ? text : text.substr(0, 57) + "...";
}

std::string bare(std::string_view word) {
  const std::string quoted = display(word, 64);
  return quoted.substr(1, quoted.size() - 2);
}

Result<int64_t> read_integer(const Json& object, std::string_view key, int64_t minimum, int64_t maximum) {
  const Json& value = object.at(std::string(key));
  // is_number_integer() is true of unsigned numbers as well; those above 2^63 do not fit.
  const bool fits = value.is_number_integer() &&
                    !(value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX));
  if (fits && value.get<int64_t>() >= minimum && value.get<int64_t>() <= maximum) return value.get<int64_t>();
  return bad_input(fmt::format("{} is {}, must be a whole number from {} to {}", key, show(value), minimum, maximum));
}

Result<double> read_number(const Json& object, std::string_view key, double minimum, double maximum) {
  const Json& value = object.at(std::string(key));
  if (value.is_number() && value.get<double>() >= minimum && value.get<double>() <= maximum) return value.get<double>();
  return bad_input(fmt::format("{} is {}, must be a number from {:g} to {:g}", key, show(value), minimum, maximum));
}

Result<bool> read_bool(const Json& object, std::string_view key) {
  const Json& value = object.at(std::string(key));
  if (value.is_boolean()) return value.get<bool>();
  return bad_input(fmt::format("{} is {}, must be true or false", key, show(value)));
}

Status read_field(const Field& field, const Json& object, ModelConfig& config) {
  if (!contains(field.families, config.family)) return ok_status();
  std::string_view key = field.key;
  if (!field.alias.empty() && (config.family == Family::kChatGlm || !has(object, key))) key = field.alias;

  if (!has(object, key)) {
    const Default* chosen = nullptr;
    for (const Default& d : field.defaults) {
      if (contains(d.families, config.family)) {
        chosen = &d;
        break;
      }
    }
    if (chosen == nullptr) {
      key = config.family == Family::kChatGlm ? field.alias : field.key;
      return bad_input(fmt::format("{} is missing, a {} model needs it", key, to_string(config.family)));
    }
    // Where transformers derives a count that is null, an absent one may still have a default of its own.
    const bool derived =
        object.contains(std::string(field.key)) && (field.key == "num_key_value_heads" || field.key == "head_dim");
    const double value = derived ? 0 : chosen->value;
    std::visit([&](auto member) { config.*member = static_cast<std::decay_t<decltype(config.*member)>>(value); },
               field.member);
    return ok_status();
  }

  if (const auto* integer = std::get_if<int64_t ModelConfig::*>(&field.member)) {
    AUTOGLM_ASSIGN_OR_RETURN(config.**integer, read_integer(object, key, static_cast<int64_t>(field.minimum),
                                                            static_cast<int64_t>(field.maximum)));
  } else if (const auto* number = std::get_if<double ModelConfig::*>(&field.member)) {
    AUTOGLM_ASSIGN_OR_RETURN(config.**number, read_number(object, key, field.minimum, field.maximum));
  } else if (const auto* flag = std::get_if<bool ModelConfig::*>(&field.member)) {
    AUTOGLM_ASSIGN_OR_RETURN(config.**flag, read_bool(object, key));
  }
  return ok_status();
}

Json field_value(const Field& field, const ModelConfig& config) {
  return std::visit([&](auto member) { return Json(config.*member); }, field.member);
}

}  // namespace autoglm::format
