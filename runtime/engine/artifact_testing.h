#pragma once
/// Models over compressed-tensors artifacts, made here from the tiny checkpoints by plain rounding.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/format/testing.h"
#include "runtime/engine/testing.h"
#include "runtime/engine/weight_reader.h"

namespace autoglm::engine {

inline std::vector<float> floats_of(const format::Checkpoint& checkpoint, const std::string& name) {
  const format::TensorInfo* info = checkpoint.find(name);
  std::vector<float> values(static_cast<size_t>(*format::element_count(info->shape)));
  format::to_float(info->dtype, must(checkpoint.bytes(name)), values);
  return values;
}

/// Rounds to nearest with scales from the range of each row and group.
inline format::QuantizedWeight round_to_nearest(const std::vector<float>& weight, const format::Shape& shape,
                                                const format::QuantArgs& args) {
  format::QuantizedWeight out{.args = args, .rows = shape[0], .cols = shape[1], .scale_dtype = format::DType::kF32};
  const size_t scales =
      args.strategy == format::Strategy::kTensor ? 1 : static_cast<size_t>(out.rows * args.groups(out.cols));
  const size_t each = weight.size() / scales;
  for (size_t i = 0; i < scales; ++i) {
    const std::span<const float> part(weight.data() + i * each, each);
    const float low = std::min(0.0F, *std::min_element(part.begin(), part.end()));
    const float high = std::max(0.0F, *std::max_element(part.begin(), part.end()));
    const auto q_min = static_cast<float>(args.q_min()), q_max = static_cast<float>(args.q_max());
    const float scale = args.symmetric ? std::max(-low, high) / q_max : (high - low) / (q_max - q_min);
    const float zero = args.symmetric ? 0 : std::nearbyint(std::clamp(q_min - low / scale, q_min, q_max));
    out.scales.push_back(scale);
    if (!args.symmetric) out.zero_points.push_back(static_cast<int8_t>(zero));
    for (const float x : part) {
      out.values.push_back(static_cast<int8_t>(std::clamp(std::nearbyint(x / scale) + zero, q_min, q_max)));
    }
  }
  return out;
}

/// A tiny checkpoint quantized by `quant`, and beside it the same with the dequantized weights as floats.
struct Artifact {
  ScratchFolder quantized, floats;

  Artifact(const std::string& family, const nlohmann::ordered_json& quantization_config) {
    const format::QuantConfig quant = must(format::QuantConfig::parse(quantization_config));
    const WeightReader source = must(WeightReader::open(tiny_folder(family)));
    std::vector<format::StoredTensor> packed, plain;
    for (const format::ModuleSpec& module : source.layout().modules()) {
      const bool embedding = module.role == format::Role::kEmbedding;
      const bool matrix = format::is_linear(module.role) || embedding;
      const format::QuantScheme* scheme =
          matrix ? quant.scheme_for(module.name, embedding ? "Embedding" : "Linear") : nullptr;
      std::vector<float> weight = floats_of(source.stored().checkpoint, module.weight_name());
      if (scheme == nullptr) {
        packed.push_back(format::stored(module.weight_name(), format::DType::kF32, module.shape, weight));
      } else {
        const format::QuantizedWeight rounded = round_to_nearest(weight, module.shape, *scheme->weights);
        for (format::StoredTensor& tensor : format::encode(rounded, module.name, quant.format_of(*scheme))) {
          packed.push_back(std::move(tensor));
        }
        if (scheme->input_activations && !scheme->input_activations->dynamic) {
          packed.push_back(format::stored(module.name + ".input_scale", format::DType::kF32, {1}, std::vector{0.05F}));
        }
        format::dequantize(rounded, weight);
      }
      plain.push_back(format::stored(module.weight_name(), format::DType::kF32, module.shape, weight));
      if (!module.has_bias) continue;
      const std::vector<float> bias = floats_of(source.stored().checkpoint, module.bias_name());
      for (auto* tensors : {&packed, &plain}) {
        tensors->push_back(format::stored(module.bias_name(), format::DType::kF32, {module.shape[0]}, bias));
      }
    }
    nlohmann::ordered_json config = source.config().raw;
    write(floats, config, plain);
    config["quantization_config"] = quantization_config;
    write(quantized, config, packed);
  }

  static void write(const ScratchFolder& folder, const nlohmann::ordered_json& config,
                    const std::vector<format::StoredTensor>& tensors) {
    std::ofstream(folder.path() / "config.json") << config.dump(2);
    std::ofstream(folder.path() / "model.safetensors", std::ios::binary) << format::safetensors_bytes(tensors);
  }
};

inline nlohmann::ordered_json weights(int bits, bool symmetric, const std::string& strategy, int64_t group_size = 0) {
  nlohmann::ordered_json json = {{"num_bits", bits}, {"type", "int"}, {"symmetric", symmetric}, {"strategy", strategy}};
  if (group_size > 0) json["group_size"] = group_size;
  return json;
}

inline nlohmann::ordered_json config(const nlohmann::ordered_json& group,
                                     std::vector<std::string> ignore = {"lm_head"}) {
  nlohmann::ordered_json json = {{"quant_method", "compressed-tensors"},
                                 {"format", group.contains("format") ? group["format"] : "pack-quantized"},
                                 {"config_groups", {{"group_0", group}}},
                                 {"ignore", ignore}};
  return json;
}

inline nlohmann::ordered_json linear(const nlohmann::ordered_json& args, const std::string& format = "pack-quantized") {
  return {{"targets", {"Linear"}}, {"weights", args}, {"format", format}};
}

inline std::vector<float> logits_of(const std::filesystem::path& folder, const std::string& family,
                                    kernels::Compute compute = kernels::Compute::kFloat) {
  Rig rig(folder, {.compute = compute, .kv = kernels::KvType::kF32});
  return rig.run(golden_ids(family, 0));
}

struct Case {
  std::string name, family;
  nlohmann::ordered_json quantization;
};

inline std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string& family : kTinyFamilies) {
    all.push_back({family + "_int4_g32", family, config(linear(weights(4, true, "group", 32)))});
  }
  const std::string f = "glm4";
  for (const int bits : {1, 2, 3, 5, 6, 7, 8}) {
    all.push_back({"bits_" + std::to_string(bits), f, config(linear(weights(bits, bits > 1, "group", 64)))});
  }
  all.push_back({"asymmetric", f, config(linear(weights(4, false, "group", 32)))});
  all.push_back({"odd_group", f, config(linear(weights(4, false, "group", 8)))});
  all.push_back({"channel", "qwen2", config(linear(weights(8, true, "channel")))});
  all.push_back({"tensor", "llama", config(linear(weights(8, true, "tensor"), "int-quantized"))});
  all.push_back({"int8_moe", "glm4_moe", config(linear(weights(8, true, "channel"), "int-quantized"))});
  all.push_back({"head_too", f, config(linear(weights(8, true, "channel")), {})});
  all.push_back({"one_of_qkv", "llama", config(linear(weights(8, true, "channel")), {"re:.*k_proj", "lm_head"})});
  nlohmann::ordered_json embedding = linear(weights(8, true, "channel"));
  embedding["targets"] = {"Linear", "Embedding"};
  all.push_back({"tied_embedding", "glm4_tied", config(embedding, {})});
  return all;
}

inline nlohmann::ordered_json w8a8(const nlohmann::ordered_json& activations) {
  nlohmann::ordered_json group = linear(weights(8, true, "channel"), "int-quantized");
  group["input_activations"] = activations;
  return config(group);
}

}  // namespace autoglm::engine
