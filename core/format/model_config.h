#pragma once
/// ModelConfig: what config.json says of the decoder, in one form for all families.
///
/// The fields are listed once, in config_fields.cpp's table: key and other spelling, member, families, bounds,
/// defaults. Reading, writing, validation and printing are derived from it. Rotary parameters are read by rope.h.
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "core/format/dtype.h"

namespace autoglm::format {

enum class Family { kChatGlm, kGlm, kGlm4, kGlm4v, kGlm4Moe, kLlama, kQwen2, kQwen3 };
std::string_view to_string(Family family);  ///< the model_type of config.json: "glm4_moe"

/// How the rotary embedding pairs dimensions: (0,1),(2,3).. or (0,d/2),(1,d/2+1)..
enum class RotaryLayout { kInterleaved, kHalfSplit };

struct ModelConfig {
  Family family = Family::kGlm;
  std::string model_type;    ///< as written in config.json (nested text_config: the outer one)
  std::string architecture;  ///< architectures[0]

  int64_t vocab_size = 0;  ///< rows of the embedding (chatglm: padded_vocab_size)
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;  ///< of dense MLPs
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-5;
  bool attention_bias = false;  ///< on q, k, v
  bool output_bias = false;     ///< on the attention's output projection (llama's attention_bias means both)
  bool mlp_bias = false;
  bool tie_word_embeddings = false;

  RotaryLayout rotary_layout = RotaryLayout::kHalfSplit;
  int64_t rotary_dim = 0;       ///< rotated dimensions of a head, even, <= head_dim
  double rope_theta = 10000.0;  ///< chatglm: 10000 * rope_ratio
  std::string rope_type =
      "default";  ///< default | linear | llama3 | yarn ...; what cannot be computed is refused by name
  nlohmann::ordered_json rope_parameters;  ///< parameters of that type, as read
  std::vector<int64_t> mrope_section;      ///< glm4v text; for text alone equal to plain rotary

  bool sandwich_norms = false;  ///< glm4, glm4v: norms after attention and after the MLP too
  bool qk_norm = false;         ///< RMSNorm per head on q and k before rotary (qwen3, glm4_moe with use_qk_norm)
  bool fused_qkv = false;       ///< chatglm: query_key_value
  bool fused_gate_up = false;   ///< glm, glm4, glm4v, chatglm: gate_up_proj = [gate; up]

  // Mixture of experts (glm4_moe); n_routed_experts == 0: dense.
  int64_t n_routed_experts = 0;
  int64_t num_experts_per_tok = 0;
  int64_t n_shared_experts = 0;
  int64_t moe_intermediate_size = 0;
  int64_t first_k_dense_replace = 0;  ///< this many first layers are dense
  int64_t n_group = 1;
  int64_t topk_group = 1;
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1.0;
  int64_t num_nextn_predict_layers = 0;  ///< MTP layers stored after the decoder's; carried over untouched

  std::vector<int64_t> eos_token_ids;
  int64_t pad_token_id = -1;   ///< -1: none, or none that has a row in the embedding
  DType dtype = DType::kBF16;  ///< of the stored float weights, as config.json says (BF16 when it does not)

  /// config.json as read, all keys kept in order, for writing an artifact's own.
  nlohmann::ordered_json raw;

  bool is_moe_layer(int64_t layer) const { return n_routed_experts > 0 && layer >= first_k_dense_replace; }

  /// Reads FOLDER/config.json; the end tokens of generation_config.json come first where it has them, as in `generate`.
  /// kBadInput: not a model folder, unknown model_type (lists the known ones; the first GLM's blank-infilling kind is
  /// named as such), a missing, mistyped or contradictory field (named).
  static Result<ModelConfig> load(const std::filesystem::path& folder);
  static Result<ModelConfig> parse(std::string_view json);

  /// What transformers loads without foreign code: a chatglm config rewritten as the equal `glm` one; a glm4v config of
  /// the first kind, decoder fields beside vision_config, with a text_config. Others: *this. `raw` of the result is a
  /// complete config.json.
  ModelConfig as_transformers() const;

  /// config.json of a folder that holds this model: `raw` with the dtype and tie_word_embeddings of the members, and
  /// with `quantization` as its quantization_config, without one where that is null.
  std::string to_json(const nlohmann::ordered_json& quantization) const;

  /// "key: value" for every field of the table, in its order.
  std::vector<std::pair<std::string, std::string>> describe() const;
};

/// Every family this build knows, for messages and --help.
std::vector<std::string_view> known_families();

}  // namespace autoglm::format
