#include "compress/export/genai_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace autoglm::exports {

std::string genai_config(const format::ModelConfig& config, bool cache_in_place) {
  constexpr int64_t kMostRoom = 8192;  // a cache in place is held whole from the first token on
  const int64_t length =
      cache_in_place ? std::min(config.max_position_embeddings, kMostRoom) : config.max_position_embeddings;
  using Json = nlohmann::ordered_json;
  const Json decoder = {
      {"session_options", {{"log_id", "onnxruntime-genai"}, {"provider_options", Json::array()}}},
      {"filename", "model.onnx"},
      {"head_size", config.head_dim},
      {"hidden_size", config.hidden_size},
      {"inputs",
       {{"input_ids", "input_ids"},
        {"attention_mask", "attention_mask"},
        {"position_ids", "position_ids"},
        {"past_key_names", "past_key_values.%d.key"},
        {"past_value_names", "past_key_values.%d.value"}}},
      {"outputs",
       {{"logits", "logits"}, {"present_key_names", "present.%d.key"}, {"present_value_names", "present.%d.value"}}},
      {"num_attention_heads", config.num_attention_heads},
      {"num_hidden_layers", config.num_hidden_layers},
      {"num_key_value_heads", config.num_key_value_heads}};
  Json model = {{"context_length", config.max_position_embeddings}, {"decoder", decoder}};
  if (!config.eos_token_ids.empty()) {
    model["eos_token_id"] = config.eos_token_ids;
    model["pad_token_id"] = config.pad_token_id >= 0 ? config.pad_token_id : config.eos_token_ids[0];
  }
  model["type"] = "decoder";
  model["vocab_size"] = config.vocab_size;
  const Json out = {
      {"model", std::move(model)},
      {"search",
       {{"do_sample", false}, {"max_length", length}, {"past_present_share_buffer", cache_in_place}, {"top_k", 1}}}};
  return out.dump(2) + "\n";
}

}  // namespace autoglm::exports
