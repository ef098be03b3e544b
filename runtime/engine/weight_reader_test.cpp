/// Models over compressed-tensors artifacts, made here from the tiny checkpoints by plain rounding.
#include "runtime/engine/weight_reader.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/format/testing.h"
#include "runtime/engine/testing.h"

namespace autoglm::engine {
namespace {

using format::QuantArgs;
using format::QuantConfig;
using format::QuantizedWeight;
using format::StoredTensor;
using format::Strategy;
using testing::HasSubstr;

/// Rounds to nearest with scales from the range of each row and group.
QuantizedWeight round_to_nearest(const std::vector<float>& weight, const format::Shape& shape, const QuantArgs& args) {
  QuantizedWeight out{.args = args, .rows = shape[0], .cols = shape[1], .scale_dtype = format::DType::kF32};
  const size_t scales = args.strategy == Strategy::kTensor ? 1 : static_cast<size_t>(out.rows * args.groups(out.cols));
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
    const QuantConfig quant = must(QuantConfig::parse(quantization_config));
    const WeightReader source = must(WeightReader::open(tiny_folder(family)));
    std::vector<StoredTensor> packed, plain;
    for (const format::ModuleSpec& module : source.layout().modules()) {
      const bool embedding = module.role == format::Role::kEmbedding;
      const bool matrix = format::is_linear(module.role) || embedding;
      const format::QuantScheme* scheme =
          matrix ? quant.scheme_for(module.name, embedding ? "Embedding" : "Linear") : nullptr;
      std::vector<float> weight = must(source.vector(module.weight_name()));
      if (scheme == nullptr) {
        packed.push_back(format::stored(module.weight_name(), format::DType::kF32, module.shape, weight));
      } else {
        const QuantizedWeight rounded = round_to_nearest(weight, module.shape, *scheme->weights);
        for (StoredTensor& tensor : format::encode(rounded, module.name, quant.format_of(*scheme))) {
          packed.push_back(std::move(tensor));
        }
        if (scheme->input_activations && !scheme->input_activations->dynamic) {
          packed.push_back(format::stored(module.name + ".input_scale", format::DType::kF32, {1}, std::vector{0.05F}));
        }
        format::dequantize(rounded, weight);
      }
      plain.push_back(format::stored(module.weight_name(), format::DType::kF32, module.shape, weight));
      if (!module.has_bias) continue;
      const std::vector<float> bias = must(source.vector(module.bias_name()));
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
                    const std::vector<StoredTensor>& tensors) {
    std::ofstream(folder.path() / "config.json") << config.dump(2);
    std::ofstream(folder.path() / "model.safetensors", std::ios::binary) << format::safetensors_bytes(tensors);
  }
};

nlohmann::ordered_json weights(int bits, bool symmetric, const std::string& strategy, int64_t group_size = 0) {
  nlohmann::ordered_json json = {{"num_bits", bits}, {"type", "int"}, {"symmetric", symmetric}, {"strategy", strategy}};
  if (group_size > 0) json["group_size"] = group_size;
  return json;
}

nlohmann::ordered_json config(const nlohmann::ordered_json& group, std::vector<std::string> ignore = {"lm_head"}) {
  nlohmann::ordered_json json = {{"quant_method", "compressed-tensors"},
                                 {"format", group.contains("format") ? group["format"] : "pack-quantized"},
                                 {"config_groups", {{"group_0", group}}},
                                 {"ignore", ignore}};
  return json;
}

nlohmann::ordered_json linear(const nlohmann::ordered_json& args, const std::string& format = "pack-quantized") {
  return {{"targets", {"Linear"}}, {"weights", args}, {"format", format}};
}

std::vector<float> logits_of(const ScratchFolder& folder, const std::string& family,
                             kernels::Compute compute = kernels::Compute::kFloat) {
  Rig rig(folder.path(), {.compute = compute, .kv = kernels::KvType::kF32});
  return rig.run(golden_ids(family, 0));
}

struct Case {
  std::string name, family;
  nlohmann::ordered_json quantization;
};

std::vector<Case> cases() {
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

class ArtifactTest : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Kinds, ArtifactTest, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(ArtifactTest, LogitsAreThoseOfTheDequantizedWeights) {
  const Artifact artifact(GetParam().family, GetParam().quantization);
  const std::vector<float> expected = logits_of(artifact.floats, GetParam().family);
  EXPECT_LT(relative_error(logits_of(artifact.quantized, GetParam().family), expected), 2e-5);
  const std::vector<float> original = golden(GetParam().family, "logits");
  EXPECT_GT(relative_error(expected, std::span(original).first(expected.size())), 1e-4);  // something was rounded
}

TEST_P(ArtifactTest, Int8ComputeStaysClose) {
  const Artifact artifact(GetParam().family, GetParam().quantization);
  const std::vector<float> expected = logits_of(artifact.floats, GetParam().family);
  const std::vector<float> found = logits_of(artifact.quantized, GetParam().family, kernels::Compute::kInt8);
  // Rounding may send a token of a random mixture of experts to another expert.
  EXPECT_LT(relative_error(found, expected), GetParam().family.starts_with("glm4_moe") ? 0.2 : 0.03);
  EXPECT_GT(relative_error(found, expected), 1e-5);  // it was computed in int8
}

nlohmann::ordered_json w8a8(const nlohmann::ordered_json& activations) {
  nlohmann::ordered_json group = linear(weights(8, true, "channel"), "int-quantized");
  group["input_activations"] = activations;
  return config(group);
}

TEST(QuantizedInput, W8A8ComputesInInt8WhateverIsAsked) {
  nlohmann::ordered_json activations = weights(8, true, "token");
  activations["dynamic"] = true;
  const Artifact artifact("glm4", w8a8(activations));
  const std::vector<float> found = logits_of(artifact.quantized, "glm4");
  EXPECT_EQ(found, logits_of(artifact.quantized, "glm4", kernels::Compute::kInt8));
  const double error = relative_error(found, logits_of(artifact.floats, "glm4"));
  EXPECT_GT(error, 1e-4);
  EXPECT_LT(error, 0.03);
}

TEST(QuantizedInput, OtherSchemesAreRoundedToo) {
  nlohmann::ordered_json activations = weights(8, false, "token");
  activations["dynamic"] = true;
  const Artifact asymmetric("glm4", w8a8(activations));
  const std::vector<float> expected = logits_of(asymmetric.floats, "glm4");
  double error = relative_error(logits_of(asymmetric.quantized, "glm4"), expected);
  EXPECT_GT(error, 1e-4);
  EXPECT_LT(error, 0.03);

  activations = weights(8, true, "tensor");
  activations["dynamic"] = false;  // the artifact's input_scale: 0.05
  const Artifact fixed("glm4", w8a8(activations));
  error = relative_error(logits_of(fixed.quantized, "glm4"), expected);
  EXPECT_GT(error, 1e-3);
  EXPECT_LT(error, 0.2);
}

Status refusal(const std::filesystem::path& folder) {
  kernels::ThreadPool pool(1);
  Status status = Model::load(folder, pool).status();
  EXPECT_EQ(status.code(), StatusCode::kBadInput);
  EXPECT_EQ(status.message().find('\n'), std::string::npos);
  return status;
}

TEST(QuantizedInput, WhatDependsOnTheBatchIsRefused) {
  nlohmann::ordered_json activations = weights(8, true, "tensor");
  activations["dynamic"] = true;
  const Artifact artifact("glm4", w8a8(activations));
  EXPECT_THAT(refusal(artifact.quantized.path()).message(), HasSubstr("group_0"));
  activations["dynamic"] = false;
  const Artifact incomplete("glm4", w8a8(activations));
  ScratchFolder copy(incomplete.quantized.path());
  std::string bytes = must(format::read_text_file(copy.path() / "model.safetensors"));
  bytes.replace(bytes.find("input_scale"), 11, "input_scalf");
  std::ofstream(copy.path() / "model.safetensors", std::ios::binary) << bytes;
  EXPECT_THAT(refusal(copy.path()).message(), HasSubstr("input_scale"));
}

TEST(Model, ForeignQuantizationIsNamed) {
  const ScratchFolder copy(tiny_folder("glm4"));
  copy.edit_config("{", R"({"quantization_config": {"quant_method": "awq", "bits": 4},)");
  EXPECT_THAT(refusal(copy.path()).message(), HasSubstr("awq"));
}

TEST(Model, WrongFilesGetOneClearLine) {
  EXPECT_THAT(refusal("/nonexistent").message(), HasSubstr("/nonexistent"));
  {
    const ScratchFolder copy(tiny_folder("llama"));
    copy.edit_config("\"intermediate_size\": 256", "\"intermediate_size\": 272");
    EXPECT_THAT(refusal(copy.path()).message(), HasSubstr("has shape"));
  }
  {
    const ScratchFolder copy(tiny_folder("llama"));
    std::filesystem::resize_file(copy.path() / "model.safetensors",
                                 std::filesystem::file_size(copy.path() / "model.safetensors") - 4);
    EXPECT_THAT(refusal(copy.path()).message(), HasSubstr("model.safetensors"));
  }
  {
    const Artifact artifact("llama", config(linear(weights(4, true, "group", 32))));
    std::string bytes = must(format::read_text_file(artifact.quantized.path() / "model.safetensors"));
    bytes.replace(bytes.find("q_proj.weight_scale"), 19, "q_proj.weight_scalf");
    std::ofstream(artifact.quantized.path() / "model.safetensors", std::ios::binary) << bytes;
    EXPECT_THAT(refusal(artifact.quantized.path()).message(), HasSubstr("q_proj.weight_scale' is missing"));
  }
}

TEST(Model, PredictsItsBytesAndKeepsTheLimit) {
  const Artifact artifact("glm4", config(linear(weights(4, true, "group", 32))));
  const WeightReader reader = must(WeightReader::open(artifact.quantized.path()));
  const WeightReader::Bytes bytes = must(Model::predict(reader));
  EXPECT_GT(bytes.packed, 0);
  EXPECT_EQ(bytes.mapped, 2 * 320 * 128 * 4);  // embedding and head
  int64_t packed = 0, mapped = 0;
  kernels::ThreadPool pool(2);
  const auto model = must(Model::load(artifact.quantized.path(), pool, bytes.packed + bytes.mapped));
  const auto count = [&](const std::vector<Linear>& linears) {
    for (const Linear& one : linears) {
      (one.weight.is_quantized() ? packed : mapped) += static_cast<int64_t>(one.weight.bytes().size());
    }
  };
  for (const Block& block : model->blocks()) {
    EXPECT_EQ(block.qkv.size(), 1u);  // joined
    for (const auto* linears : {&block.qkv, &block.o, &block.mlp->gate_up, &block.mlp->down}) count(*linears);
  }
  count(model->head());
  mapped += reader.stored().weight_bytes(reader.stored().embedding());
  EXPECT_EQ(mapped, bytes.mapped);
  EXPECT_LE(std::abs(packed - bytes.packed), 3 * 4 * 256);  // joining saves some padding
  const Status refused = Model::load(artifact.quantized.path(), pool, bytes.packed + bytes.mapped - 1).status();
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
}

TEST(Model, LoadingCanBeCancelled) {
  const Artifact artifact("glm4", config(linear(weights(4, true, "group", 32))));
  CancelToken cancel;
  cancel.cancel();
  kernels::ThreadPool pool(2);
  EXPECT_EQ(Model::load(artifact.quantized.path(), pool, 0, &cancel).status().code(), StatusCode::kCancelled);
}

}  // namespace
}  // namespace autoglm::engine
