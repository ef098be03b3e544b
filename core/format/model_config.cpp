#include "core/format/model_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <optional>
#include <system_error>

#include "core/base/suggest.h"
#include "core/format/config_fields.h"
#include "core/format/display.h"
#include "core/format/file.h"
#include "core/format/json.h"
#include "core/format/rope.h"

namespace autoglm::format {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr int64_t kMaxConfigBytes = 16 << 20;
constexpr int64_t kMaxMembers = 20'000;   // ordered_json looks names up one by one
constexpr int64_t kMaxModules = 1 << 20;  // names a layout may hold; GLM-4.5 has 45 thousand
constexpr double kMaxParameters = 1e14;   // bytes of any dtype stay far below 2^63

/// What a family is, apart from the numbers of its config.json.
struct Traits {
  Family family;
  std::string_view name;          ///< model_type
  std::string_view architecture;  ///< the causal model's class in transformers
  RotaryLayout rotary = RotaryLayout::kHalfSplit;
  double partial_rotary_factor = 1;  ///< default; 1: whole heads
  bool fused_qkv = false;
  bool fused_gate_up = false;
  bool sandwich_norms = false;
  bool qk_norm = false;
  bool attention_bias = false;         ///< where config.json has no say
  bool output_bias_follows = false;    ///< attention_bias means the output projection too
  std::vector<int64_t> eos_token_ids;  ///< transformers' defaults
  int64_t pad_token_id = -1;
};

const std::array<Traits, 8>& families() {
  constexpr RotaryLayout kInterleaved = RotaryLayout::kInterleaved;
  static const std::array<Traits, 8> table = {{
      {.family = Family::kChatGlm,
       .name = "chatglm",
       .architecture = "ChatGLMForConditionalGeneration",
       .rotary = kInterleaved,
       .partial_rotary_factor = 0.5,
       .fused_qkv = true,
       .fused_gate_up = true},
      {.family = Family::kGlm,
       .name = "glm",
       .architecture = "GlmForCausalLM",
       .rotary = kInterleaved,
       .partial_rotary_factor = 0.5,
       .fused_gate_up = true,
       .eos_token_ids = {151329, 151336, 151338},
       .pad_token_id = 151329},
      {.family = Family::kGlm4,
       .name = "glm4",
       .architecture = "Glm4ForCausalLM",
       .rotary = kInterleaved,
       .partial_rotary_factor = 0.5,
       .fused_gate_up = true,
       .sandwich_norms = true,
       .eos_token_ids = {151329, 151336, 151338},
       .pad_token_id = 151329},
      {.family = Family::kGlm4v,
       .name = "glm4v",
       .architecture = "Glm4vForConditionalGeneration",
       .rotary = kInterleaved,
       .fused_gate_up = true,
       .sandwich_norms = true,
       .attention_bias = true},
      {.family = Family::kGlm4Moe,
       .name = "glm4_moe",
       .architecture = "Glm4MoeForCausalLM",
       .partial_rotary_factor = 0.5},
      {.family = Family::kLlama,
       .name = "llama",
       .architecture = "LlamaForCausalLM",
       .output_bias_follows = true,
       .eos_token_ids = {2}},
      {.family = Family::kQwen2, .name = "qwen2", .architecture = "Qwen2ForCausalLM", .attention_bias = true},
      {.family = Family::kQwen3,
       .name = "qwen3",
       .architecture = "Qwen3ForCausalLM",
       .qk_norm = true,
       .output_bias_follows = true},
  }};
  return table;
}

const Traits& traits_of(Family family) { return families()[static_cast<size_t>(family)]; }

/// A member that decides on mathematics which this build has in one form only; absent or null is that form.
struct Requirement {
  bool chatglm;  ///< of chatglm, or of all others
  std::string_view key;
  Json wanted;
  std::string_view otherwise;
};

const std::vector<Requirement>& requirements() {
  static const std::vector<Requirement> table = {
      {true, "rmsnorm", true, "LayerNorm is not supported"},
      {true, "post_layer_norm", true, "a decoder without final norm is not supported"},
      {true, "apply_residual_connection_post_layernorm", false, "residuals taken after the norm are not supported"},
      {true, "add_bias_linear", false, "biases on all projections are not supported"},
      {true, "original_rope", true, "another rotary embedding is not supported"},
      {true, "interleaved_qkv", false, "interleaved query_key_value weights are not supported"},
      {true, "quantization_bit", 0, "ChatGLM's own quantization is not supported, take the unquantized checkpoint"},
      {true, "pre_seq_len", nullptr, "P-tuning prefixes are not supported"},
      {false, "hidden_act", "silu", "only SiLU-gated MLPs are supported"},
  };
  return table;
}

Status check_requirements(const Json& object, Family family) {
  for (const Requirement& r : requirements()) {
    if (r.chatglm != (family == Family::kChatGlm) || !has(object, r.key)) continue;
    const Json& value = object.at(std::string(r.key));
    if (value == r.wanted || (r.key == "hidden_act" && value == "swish"))
      continue;  // transformers' other name for SiLU
    return bad_input(fmt::format("{} is {}: {}", r.key, show(value), r.otherwise));
  }
  return ok_status();
}

/// The value of root[key] if it is a string, else "".
std::string word(const Json& object, const char* key) {
  return has(object, key) && object.at(key).is_string() ? object.at(key).get<std::string>() : "";
}

std::string first_architecture(const Json& root) {
  if (!has(root, "architectures")) return "";
  const Json& list = root.at("architectures");
  return list.is_array() && !list.empty() && list[0].is_string() ? list[0].get<std::string>() : "";
}

/// The family of `root`; older relatives that share its name are refused as what they are.
Result<Family> identify(const Json& root) {
  if (!has(root, "model_type") || !root.at("model_type").is_string()) {
    return bad_input("model_type is missing: not the configuration of a transformers model");
  }
  const std::string type = word(root, "model_type");
  const std::string architecture = first_architecture(root);
  std::vector<std::string> known;
  for (const Traits& t : families()) known.emplace_back(t.name);
  if (type == "chatglm" && (has(root, "position_encoding_2d") || has(root, "inner_hidden_size"))) {
    return bad_input(
        fmt::format("this is the first ChatGLM-6B (2-D positions, LayerNorm), which is not supported; ChatGLM2-6B, "
                    "ChatGLM3-6B and GLM-4-9B are, and all of model_type {}",
                    fmt::join(known, ", ")));
  }
  if (type == "glm" && (root.contains("block_position_encoding") || architecture.starts_with("GLM"))) {
    return bad_input(
        fmt::format("this is the first, blank-infilling GLM (glm-large, glm-10b, ...), which is not supported; the "
                    "'glm' of GLM-4-9B and GLM-Edge is, and all of model_type {}",
                    fmt::join(known, ", ")));
  }
  for (const Traits& t : families()) {
    if (type == t.name) return t.family;
  }
  return bad_input(unknown_word("model_type", bare(type), known));
}

/// The object that holds the decoder's fields: glm4v's text_config, or the root (first releases of glm4v: there too).
Result<const Json*> decoder_object(const Json& root, Family family) {
  if (family != Family::kGlm4v || !has(root, "text_config")) return &root;
  const Json& text = root.at("text_config");
  if (!text.is_object()) return bad_input(fmt::format("text_config is {}, must be an object", show(text)));
  if (const std::string type = word(text, "model_type"); !type.empty() && type != "glm4v_text") {
    return bad_input(fmt::format("text_config has model_type '{}', only 'glm4v_text' is supported", bare(type)));
  }
  return &text;
}

/// Ids under `key`: a number or a list of numbers.
Result<std::vector<int64_t>> read_ids(const Json& object, const char* key) {
  const Json& value = object.at(key);
  if (!value.is_array()) {
    AUTOGLM_ASSIGN_OR_RETURN(const int64_t id, read_integer(object, key, 0, INT32_MAX));
    return std::vector<int64_t>{id};
  }
  if (value.size() > 1024) return bad_input(fmt::format("{} lists {} ids, more than 1024", key, value.size()));
  std::vector<int64_t> ids;
  for (const Json& entry : value) {
    const std::string name = fmt::format("{}[{}]", key, ids.size());
    AUTOGLM_ASSIGN_OR_RETURN(const int64_t id, read_integer(Json{{name, entry}}, name, 0, INT32_MAX));
    ids.push_back(id);
  }
  return ids;
}

/// eos_token_id and pad_token_id. What generation_config.json says of the end counts first, as it does in `generate`.
Status read_tokens(const Json& root, const Json& text, const Json& generation, ModelConfig& config) {
  const Traits& traits = traits_of(config.family);
  const Json* source = nullptr;
  for (const Json* object : {&generation, &root, &text}) {
    if (source == nullptr && has(*object, "eos_token_id")) source = object;
  }
  if (source != nullptr) {
    AUTOGLM_ASSIGN_OR_RETURN(config.eos_token_ids, read_ids(*source, "eos_token_id"));
  } else {
    for (const int64_t id : traits.eos_token_ids) {
      if (id < config.vocab_size) config.eos_token_ids.push_back(id);
    }
  }
  config.pad_token_id = traits.pad_token_id;
  for (const Json* object : {&text, &root}) {
    if (!has(*object, "pad_token_id")) continue;
    AUTOGLM_ASSIGN_OR_RETURN(config.pad_token_id, read_integer(*object, "pad_token_id", -1, INT32_MAX));
  }
  if (config.pad_token_id >= config.vocab_size) config.pad_token_id = -1;
  return ok_status();
}

/// torch's names of the float types that weights are stored in.
constexpr std::pair<std::string_view, DType> kTorchTypes[] = {
    {"bfloat16", DType::kBF16}, {"float16", DType::kF16}, {"float32", DType::kF32}, {"float64", DType::kF64}};

Status read_dtype(const Json& root, const Json& text, ModelConfig& config) {
  for (const Json* object : {&root, &text}) {
    for (const char* key : {"dtype", "torch_dtype"}) {
      if (!has(*object, key)) continue;
      std::string name = word(*object, key);
      if (name.starts_with("torch.")) name.erase(0, 6);
      if (name == "auto") continue;
      for (const auto& [torch_name, dtype] : kTorchTypes) {
        if (name != torch_name) continue;
        config.dtype = dtype;
        return ok_status();
      }
      return bad_input(
          fmt::format("{} is {}, must be bfloat16, float16, float32 or float64", key, show(object->at(key))));
    }
  }
  return ok_status();
}

/// Refuses a layer that attends to a window only (qwen2, qwen3), as transformers would build it.
Status check_attention(const Json& object, const ModelConfig& config) {
  if (config.family != Family::kQwen2 && config.family != Family::kQwen3) return ok_status();
  bool sliding = false;
  if (has(object, "use_sliding_window")) {
    AUTOGLM_ASSIGN_OR_RETURN(sliding, read_bool(object, "use_sliding_window"));
  }

  int64_t first = config.num_hidden_layers;  // the first layer with a window
  if (sliding) {
    first = 28;
    if (has(object, "max_window_layers")) {
      AUTOGLM_ASSIGN_OR_RETURN(first, read_integer(object, "max_window_layers", 0, INT32_MAX));
    }
  }
  if (has(object, "layer_types")) {
    const Json& types = object.at("layer_types");
    if (!types.is_array() || types.size() != static_cast<size_t>(config.num_hidden_layers)) {
      return bad_input(fmt::format("layer_types must list {} words, one for each layer", config.num_hidden_layers));
    }
    first = config.num_hidden_layers;
    for (size_t i = types.size(); i-- > 0;) {
      if (types[i] == "full_attention") continue;
      if (types[i] != "sliding_attention") {
        return bad_input(fmt::format("layer_types[{}] is {}, only full_attention is supported", i, show(types[i])));
      }
      first = static_cast<int64_t>(i);
    }
  }
  if (!sliding || first >= config.num_hidden_layers) return ok_status();
  int64_t window = 4096;
  if (has(object, "sliding_window")) {
    AUTOGLM_ASSIGN_OR_RETURN(window, read_integer(object, "sliding_window", 1, INT32_MAX));
  } else if (object.contains("sliding_window")) {
    return ok_status();  // null: no window
  }
  if (window >= config.max_position_embeddings) return ok_status();
  return bad_input(fmt::format("layer {} attends to a sliding window of {} tokens, only full attention is supported",
                               first, window));
}

Status check_experts(const ModelConfig& c) {
  if (c.n_routed_experts == 0) return ok_status();
  if (c.n_routed_experts % c.n_group != 0) {
    return bad_input(fmt::format("n_group {} does not divide n_routed_experts {}", c.n_group, c.n_routed_experts));
  }
  const int64_t group = c.n_routed_experts / c.n_group;
  if (group < 2)
    return bad_input(fmt::format("n_group {} leaves one expert to a group, must be two or more", c.n_group));
  if (c.topk_group > c.n_group) {
    return bad_input(fmt::format("topk_group {} is greater than n_group {}", c.topk_group, c.n_group));
  }
  if (c.num_experts_per_tok > c.topk_group * group) {
    return bad_input(fmt::format("num_experts_per_tok {} is greater than the {} experts of topk_group {}",
                                 c.num_experts_per_tok, c.topk_group * group, c.topk_group));
  }
  return ok_status();
}

/// Bounds what a layout of this config may take, so that later sums of bytes fit and a small file cannot ask for much.
Status check_totals(const ModelConfig& c) {
  const auto real = [](int64_t n) { return static_cast<double>(n); };
  const double attention =
      real(c.hidden_size) * real(c.head_dim) * 2 * (real(c.num_attention_heads) + real(c.num_key_value_heads));
  const double dense = 3 * real(c.hidden_size) * real(c.intermediate_size);
  const double experts =
      3 * real(c.hidden_size) * real(c.moe_intermediate_size) * (real(c.n_routed_experts) + real(c.n_shared_experts));
  const double parameters =
      2 * real(c.vocab_size) * real(c.hidden_size) + real(c.num_hidden_layers) * (attention + dense + experts);
  if (parameters > kMaxParameters) {
    return bad_input(fmt::format("its sizes add up to {:.3g} parameters, more than {:g}: one of them must be wrong",
                                 parameters, kMaxParameters));
  }
  const int64_t modules = c.num_hidden_layers * (3 * c.n_routed_experts + 16);
  if (modules > kMaxModules) {
    return bad_input(fmt::format("{} layers of {} experts are more than this build handles", c.num_hidden_layers,
                                 c.n_routed_experts));
  }
  return ok_status();
}

/// Head counts and sizes, from what was read and what is derived.
Status complete_heads(const Json& object, ModelConfig& c) {
  if (c.family == Family::kChatGlm) {
    bool grouped = false;
    if (has(object, "multi_query_attention")) {
      AUTOGLM_ASSIGN_OR_RETURN(grouped, read_bool(object, "multi_query_attention"));
    }
    if (!grouped) c.num_key_value_heads = c.num_attention_heads;
  }
  if (c.num_key_value_heads == 0) c.num_key_value_heads = c.num_attention_heads;
  if (c.num_attention_heads % c.num_key_value_heads != 0) {
    return bad_input(fmt::format("num_key_value_heads {} does not divide num_attention_heads {}", c.num_key_value_heads,
                                 c.num_attention_heads));
  }
  const bool divides = c.hidden_size % c.num_attention_heads == 0;
  if (c.head_dim == 0) {
    if (!divides) {
      return bad_input(fmt::format("num_attention_heads {} does not divide hidden_size {}, and head_dim is missing",
                                   c.num_attention_heads, c.hidden_size));
    }
    c.head_dim = c.hidden_size / c.num_attention_heads;
  }
  // Glm4vTextAttention takes no other size.
  if (c.family == Family::kGlm4v && c.head_dim * c.num_attention_heads != c.hidden_size) {
    return bad_input(fmt::format("head_dim {} times num_attention_heads {} must be hidden_size {} in a glm4v model",
                                 c.head_dim, c.num_attention_heads, c.hidden_size));
  }
  return ok_status();
}

Result<ModelConfig> parse_json_config(Json root, const Json& generation) {
  if (!root.is_object()) return bad_input(fmt::format("is {}, must be a JSON object", show(root)));
  AUTOGLM_ASSIGN_OR_RETURN(const Family family, identify(root));
  AUTOGLM_ASSIGN_OR_RETURN(const Json* const object, decoder_object(root, family));
  AUTOGLM_RETURN_IF_ERROR(check_requirements(*object, family));

  const Traits& traits = traits_of(family);
  ModelConfig c;
  c.family = family;
  c.model_type = traits.name;
  c.architecture = first_architecture(root);
  c.rotary_layout = traits.rotary;
  c.fused_qkv = traits.fused_qkv;
  c.fused_gate_up = traits.fused_gate_up;
  c.sandwich_norms = traits.sandwich_norms;
  c.qk_norm = traits.qk_norm;
  c.attention_bias = traits.attention_bias;
  for (const Field& field : fields()) AUTOGLM_RETURN_IF_ERROR(read_field(field, *object, c));
  c.output_bias = traits.output_bias_follows && c.attention_bias;
  // glm4v: transformers 5 has it outside text_config, 4 inside.
  if (object != &root && has(root, "tie_word_embeddings")) {
    AUTOGLM_ASSIGN_OR_RETURN(const bool outer, read_bool(root, "tie_word_embeddings"));
    c.tie_word_embeddings = c.tie_word_embeddings || outer;
  }

  AUTOGLM_RETURN_IF_ERROR(complete_heads(*object, c));
  AUTOGLM_RETURN_IF_ERROR(check_experts(c));
  AUTOGLM_RETURN_IF_ERROR(check_totals(c));
  AUTOGLM_RETURN_IF_ERROR(check_attention(*object, c));
  AUTOGLM_RETURN_IF_ERROR(read_rope(*object, traits.partial_rotary_factor, c));
  AUTOGLM_RETURN_IF_ERROR(read_tokens(root, *object, generation, c));
  AUTOGLM_RETURN_IF_ERROR(read_dtype(root, *object, c));
  c.raw = std::move(root);
  return c;
}

Result<Json> parse_text(std::string_view text) {
  if (std::count(text.begin(), text.end(), ':') > kMaxMembers) {
    return bad_input(fmt::format("has more than {} members", kMaxMembers));
  }
  return parse_json<Json>(text);
}

/// Reads a JSON file of the folder; nothing when it does not exist.
Result<std::optional<Json>> load_json(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) return std::optional<Json>();
  AUTOGLM_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxConfigBytes));
  auto parsed = parse_text(text);
  if (!parsed.ok()) return parsed.status().with_context(display_path(path));
  return std::optional<Json>(*std::move(parsed));
}

/// Members of a glm4v config.json that are not the decoder's.
bool belongs_outside(std::string_view key) {
  constexpr std::string_view kOutside[] = {"architectures", "model_type",          "vision_config",
                                           "text_config",   "tie_word_embeddings", "dtype",
                                           "torch_dtype",   "quantization_config", "transformers_version"};
  return key.starts_with("image_") || key.starts_with("video_") ||
         std::find(std::begin(kOutside), std::end(kOutside), key) != std::end(kOutside);
}

/// transformers 5 reads glm4v's decoder from text_config alone: what lies beside vision_config moves there.
Json with_text_config(const Json& flat) {
  Json outer = Json::object();
  Json text = {{"model_type", "glm4v_text"}};
  for (const auto& [key, value] : flat.items()) (belongs_outside(key) ? outer : text)[key] = value;
  outer["text_config"] = std::move(text);
  return outer;
}

}  // namespace

std::string_view to_string(Family family) { return traits_of(family).name; }

std::vector<std::string_view> known_families() {
  std::vector<std::string_view> names;
  for (const Traits& t : families()) names.push_back(t.name);
  return names;
}

Result<ModelConfig> ModelConfig::parse(std::string_view json) {
  AUTOGLM_ASSIGN_OR_RETURN(Json root, parse_text(json));
  return parse_json_config(std::move(root), Json::object());
}

Result<ModelConfig> ModelConfig::load(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) return bad_input(display_path(folder) + ": no such model folder");
  const fs::path path = folder / "config.json";
  AUTOGLM_ASSIGN_OR_RETURN(std::optional<Json> root, load_json(path));
  if (!root) return bad_input(display_path(folder) + ": not a model folder, it has no config.json");
  AUTOGLM_ASSIGN_OR_RETURN(const std::optional<Json> generation, load_json(folder / "generation_config.json"));
  if (generation && !generation->is_object()) {
    return bad_input(display_path(folder / "generation_config.json") + ": must be a JSON object");
  }
  auto config = parse_json_config(*std::move(root), generation.value_or(Json::object()));
  if (!config.ok()) return config.status().with_context(display_path(path));
  return config;
}

ModelConfig ModelConfig::as_transformers() const {
  ModelConfig out = *this;
  if (family == Family::kGlm4v && !has(raw, "text_config")) out.raw = with_text_config(raw);
  if (family != Family::kChatGlm) return out;

  const Traits& glm = traits_of(Family::kGlm);
  out.family = Family::kGlm;
  out.model_type = glm.name;
  out.architecture = glm.architecture;
  out.fused_qkv = false;
  out.raw = Json{{"architectures", {out.architecture}}, {"model_type", out.model_type}};
  for (const Field& field : fields()) {
    if (contains(field.families, out.family)) out.raw[std::string(field.key)] = field_value(field, out);
  }
  out.raw["hidden_act"] = "silu";
  // transformers 5 reads rope_parameters, 4 the two keys after it.
  out.raw["rope_parameters"] = out.rope_parameters;
  out.raw["rope_theta"] = out.rope_theta;
  out.raw["partial_rotary_factor"] = static_cast<double>(out.rotary_dim) / static_cast<double>(out.head_dim);
  out.raw["eos_token_id"] = out.eos_token_ids;
  out.raw["pad_token_id"] = out.pad_token_id < 0 ? Json(nullptr) : Json(out.pad_token_id);
  for (const auto& [name, type] : kTorchTypes) {
    if (type == out.dtype) out.raw["dtype"] = name;
  }
  for (const char* key :
       {"bos_token_id", "attention_dropout", "initializer_range", "use_cache", "quantization_config"}) {
    if (raw.contains(key)) out.raw[key] = raw.at(key);
  }
  return out;
}

std::string ModelConfig::to_json(const nlohmann::ordered_json& quantization) const {
  nlohmann::ordered_json json = raw;
  const bool nested = json.contains("text_config") && json["text_config"].is_object();
  const auto set = [&](const char* key, const nlohmann::ordered_json& value) {
    if (json.contains(key) || !nested) json[key] = value;
    if (nested && json["text_config"].contains(key)) json["text_config"][key] = value;
  };
  const char* name = dtype == DType::kF16 ? "float16" : dtype == DType::kBF16 ? "bfloat16" : "float32";
  const bool older = json.contains("torch_dtype") || (nested && json["text_config"].contains("torch_dtype"));
  set(older && !json.contains("dtype") ? "torch_dtype" : "dtype", name);
  if (json.contains("tie_word_embeddings") || !tie_word_embeddings) set("tie_word_embeddings", tie_word_embeddings);
  json.erase("quantization_config");
  if (nested) json["text_config"].erase("quantization_config");
  if (!quantization.is_null()) json["quantization_config"] = quantization;
  return json.dump(2) + "\n";
}

std::vector<std::pair<std::string, std::string>> ModelConfig::describe() const {
  std::vector<std::pair<std::string, std::string>> lines = {{"model_type", model_type}};
  for (const Field& field : fields()) {
    if (contains(field.families, family)) lines.emplace_back(field.key, show(field_value(field, *this)));
  }
  lines.emplace_back("rope_type", rope_type);
  lines.emplace_back("rope_theta", show(rope_theta));
  lines.emplace_back(
      "rotary_dim",
      fmt::format("{} ({})", rotary_dim, rotary_layout == RotaryLayout::kInterleaved ? "interleaved" : "half-split"));
  return lines;
}

}  // namespace autoglm::format
