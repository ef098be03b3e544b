// Prints what ModelConfig, rope.h and TensorLayout make of each model folder on the command line, one JSON object a
// line, for test_agreement.py to compare with transformers.
#include <iostream>
#include <nlohmann/json.hpp>

#include "core/format/model_config.h"
#include "core/format/rope.h"
#include "core/format/tensor_layout.h"

namespace {

using namespace autoglm::format;
using Json = nlohmann::ordered_json;

nlohmann::json tensors(const ModelConfig& config) {
  const TensorLayout layout = TensorLayout::describe(config);
  nlohmann::json out = nlohmann::json::object();  // tens of thousands of names: not for ordered_json
  for (const ModuleSpec& module : layout.modules()) {
    out[module.weight_name()] = module.shape;
    if (module.has_bias) out[module.bias_name()] = Shape{module.shape[0]};
  }
  return out;
}

nlohmann::json print(const ModelConfig& c, int64_t sequence_length) {
  Json fields = Json::object();
  for (const auto& [key, value] : c.describe()) {
    const Json parsed = Json::parse(value, nullptr, false);
    fields[key] = parsed.is_discarded() ? Json(value) : parsed;
  }
  Json out = {{"fields", fields},
              {"interleaved", c.rotary_layout == RotaryLayout::kInterleaved},
              {"rotary_dim", c.rotary_dim},
              {"rope_parameters", c.rope_parameters},
              {"mrope_section", c.mrope_section},
              {"inverse_frequencies", rope_inverse_frequencies(c, sequence_length)},
              {"attention_scaling", rope_attention_scaling(c)},
              {"eos_token_ids", c.eos_token_ids},
              {"pad_token_id", c.pad_token_id},
              {"dtype", std::string(to_string(c.dtype))}};
  nlohmann::json whole = out;
  whole["tensors"] = tensors(c);
  return whole;
}

}  // namespace

/// print_config SEQUENCE_LENGTH FOLDER...
int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const int64_t sequence_length = std::stoll(argv[1]);
  for (int i = 2; i < argc; ++i) {
    const auto config = ModelConfig::load(argv[i]);
    nlohmann::json out;
    if (!config.ok()) {
      out["error"] = config.status().message();
    } else {
      out = print(*config, sequence_length);
      const ModelConfig rewritten = config->as_transformers();
      out["as_transformers"] = print(rewritten, sequence_length);
      out["as_transformers"]["raw"] = rewritten.raw;
    }
    std::cout << out.dump() << '\n';
  }
  return 0;
}
