/// Decoder over compressed-tensors artifacts, made here from the tiny checkpoints by plain rounding.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "compress/model/testing.h"
#include "core/format/quantized_weight.h"
#include "core/format/testing.h"

namespace autoglm::model {
namespace {

using format::QuantArgs;
using format::QuantConfig;
using format::QuantizedWeight;
using format::QuantScheme;
using format::StoredTensor;
using format::Strategy;
using testing::HasSubstr;

/// Rounds to nearest with scales from the range of each row and group.
QuantizedWeight round_to_nearest(const at::Tensor& weight, const QuantArgs& args) {
  QuantizedWeight out{.args = args, .rows = weight.size(0), .cols = weight.size(1), .scale_dtype = format::DType::kF32};
  const int64_t groups = args.groups(out.cols);
  const bool one = args.strategy == Strategy::kTensor;
  const at::Tensor parts = one ? weight.reshape({1, 1, -1}) : weight.reshape({out.rows, groups, -1});
  at::Tensor scale, zero = at::zeros({1});
  if (args.symmetric) {
    scale = parts.abs().amax(-1, true) / args.q_max();
  } else {
    const at::Tensor low = parts.amin(-1, true).clamp_max(0);
    scale = (parts.amax(-1, true).clamp_min(0) - low) / (args.q_max() - args.q_min());
    zero = (args.q_min() - low / scale).round().clamp(args.q_min(), args.q_max());
  }
  const at::Tensor q = ((parts / scale).round() + zero).clamp(args.q_min(), args.q_max()).to(at::kChar).flatten();
  scale = scale.contiguous().flatten();
  out.values.assign(q.data_ptr<int8_t>(), q.data_ptr<int8_t>() + q.numel());
  out.scales.assign(scale.data_ptr<float>(), scale.data_ptr<float>() + scale.numel());
  if (!args.symmetric) {
    zero = zero.to(at::kChar).flatten();
    out.zero_points.assign(zero.data_ptr<int8_t>(), zero.data_ptr<int8_t>() + zero.numel());
  }
  return out;
}

void write_folder(const std::filesystem::path& folder, const nlohmann::ordered_json& config,
                  const std::vector<StoredTensor>& tensors) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) std::filesystem::remove(entry);
  std::ofstream(folder / "config.json") << config.dump();
  std::ofstream(folder / "model.safetensors", std::ios::binary) << format::safetensors_bytes(tensors);
}

StoredTensor as_stored(const std::string& name, const at::Tensor& value) {
  const at::Tensor flat = value.to(at::kFloat).contiguous();
  const auto bytes = tensor::bytes_of(flat);
  return {name, format::DType::kF32, value.sizes().vec(), {bytes.begin(), bytes.end()}};
}

/// A tiny checkpoint quantized by `quant`, and beside it the same with the dequantized weights as floats.
struct Artifact {
  ScratchCopy quantized, floats;

  Artifact(const std::string& family, const QuantConfig& quant)
      : quantized(tiny_folder(family)), floats(tiny_folder(family)) {
    const Decoder source = open_decoder(tiny_folder(family));
    std::vector<StoredTensor> packed, plain;
    for (const format::ModuleSpec& module : source.layout().modules()) {
      const bool matrix = format::is_linear(module.role) || module.role == format::Role::kEmbedding;
      const bool embedding = module.role == format::Role::kEmbedding;
      const QuantScheme* scheme = matrix ? quant.scheme_for(module.name, embedding ? "Embedding" : "Linear") : nullptr;
      at::Tensor weight = tensor::load(source.checkpoint(), module.weight_name(), at::kFloat).value();
      if (scheme == nullptr) {
        packed.push_back(as_stored(module.weight_name(), weight));
      } else {
        const QuantizedWeight rounded = round_to_nearest(weight, *scheme->weights);
        for (StoredTensor& tensor : format::encode(rounded, module.name, quant.format_of(*scheme))) {
          packed.push_back(std::move(tensor));
        }
        format::dequantize(rounded, {weight.data_ptr<float>(), static_cast<size_t>(weight.numel())});
      }
      plain.push_back(as_stored(module.weight_name(), weight));
      if (!module.has_bias) continue;
      const at::Tensor bias = tensor::load(source.checkpoint(), module.bias_name(), at::kFloat).value();
      packed.push_back(as_stored(module.bias_name(), bias));
      plain.push_back(as_stored(module.bias_name(), bias));
    }
    nlohmann::ordered_json config = source.config().raw;
    write_folder(floats.folder(), config, plain);
    config["quantization_config"] = quant.to_json();
    write_folder(quantized.folder(), config, packed);
  }
};

QuantConfig quant_config(QuantArgs weights, std::string_view format, std::vector<std::string> targets = {"Linear"}) {
  QuantConfig config;
  config.config_groups = {{"group_0", {.targets = std::move(targets), .weights = std::move(weights)}}};
  config.format = format;
  return config;
}

struct Case {
  std::string name, family;
  QuantConfig config;
};

std::vector<Case> cases() {
  const auto packed = format::kPackQuantized, plain = format::kIntQuantized;
  std::vector<Case> all = {
      {"glm_int4_group", "glm", quant_config({.num_bits = 4, .strategy = Strategy::kGroup, .group_size = 32}, packed)},
      {"glm4_int3_asymmetric", "glm4", quant_config({.num_bits = 3, .symmetric = false}, packed)},
      {"chatglm_int8", "chatglm", quant_config({.num_bits = 8}, plain)},
      {"glm4_moe_int4_asymmetric_group", "glm4_moe",
       quant_config({.num_bits = 4, .symmetric = false, .strategy = Strategy::kGroup, .group_size = 64}, packed)},
      {"tied_embedding_int5", "glm4_tied",
       quant_config({.num_bits = 5, .symmetric = false}, packed, {"Linear", "Embedding"})},
      {"glm4v_everything_int8", "glm4v", quant_config({.num_bits = 8}, packed, {"Linear", "Embedding"})},
      {"llama_int6_tensor", "llama", quant_config({.num_bits = 6, .strategy = Strategy::kTensor}, packed)},
  };
  QuantConfig mixed =
      quant_config({.num_bits = 2, .strategy = Strategy::kGroup, .group_size = 16}, packed, {"re:.*mlp.*"});
  mixed.config_groups.push_back({"group_1", {.targets = {"re:.*self_attn.*"}, .weights = QuantArgs{.num_bits = 8}}});
  mixed.ignore = {"lm_head"};
  all.push_back({"qwen3_mixed", "qwen3", mixed});
  return all;
}

class QuantizedTest : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Schemes, QuantizedTest, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(QuantizedTest, ComputesWithTheDequantizedWeights) {
  const Artifact artifact(GetParam().family, GetParam().config);
  const Decoder quantized = open_decoder(artifact.quantized.folder()), floats = open_decoder(artifact.floats.folder());
  ASSERT_TRUE(quantized.stored().quantization.has_value());
  const at::Tensor ids = golden(GetParam().family, "input_ids");
  const std::vector<at::Tensor> a = hidden_states(quantized, ids), b = hidden_states(floats, ids);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_LT(relative_error(a[i], b[i]), 1e-6) << i;
  const at::Tensor logits = all_logits(quantized, ids);
  EXPECT_LT(relative_error(logits, all_logits(floats, ids)), 1e-6);
  EXPECT_GT(relative_error(logits, golden(GetParam().family, "logits")), 1e-4);  // something was quantized
  for (const format::ModuleSpec& module : quantized.layout().modules()) {
    if (!format::is_linear(module.role)) continue;
    EXPECT_TRUE(quantized.load_weight(module, at::kFloat)->equal(*floats.load_weight(module, at::kFloat)))
        << module.name;
  }
  EXPECT_EQ(quantized.block_bytes(), floats.block_bytes());
  EXPECT_EQ(quantized.load_block(1)->bytes(), quantized.block_bytes(1));
}

TEST(QuantizedDecoder, QuantizesActivationsWhereTheSchemeSaysSo) {
  for (const std::string family : {"glm4", "glm4_moe"}) {
    QuantConfig config = quant_config({.num_bits = 8}, format::kIntQuantized);
    config.config_groups[0].second.input_activations =
        QuantArgs{.num_bits = 8, .strategy = Strategy::kToken, .dynamic = true};
    const Artifact artifact(family, config);
    const Decoder quantized = open_decoder(artifact.quantized.folder()),
                  floats = open_decoder(artifact.floats.folder());
    const at::Tensor ids = golden(family, "input_ids");

    at::Tensor hidden = floats.embed(ids).value();
    for (int64_t layer = 0; layer < 3; ++layer) {
      Block block = floats.load_block(layer).value();
      for (const format::Stage stage : format::kStages) {
        for (Linear* linear : block.linears(stage)) {
          linear->input = format::InputQuant{{.num_bits = 8, .strategy = Strategy::kToken, .dynamic = true}};
        }
      }
      hidden = forward(floats.config(), block, floats.rotary(24), hidden);
    }
    EXPECT_LT(relative_error(hidden_states(quantized, ids).back(), hidden), 1e-6);
    EXPECT_GT(relative_error(hidden, hidden_states(floats, ids).back()), 1e-4);
    // The head multiplies quantized activations, too.
    EXPECT_GT(relative_error(quantized.logits(hidden[0]).value(), floats.logits(hidden[0]).value()), 1e-4);
  }
}

TEST(QuantizedDecoder, NamesWhatIsWrongWithAnArtifact) {
  const QuantConfig config = quant_config({.num_bits = 4}, format::kPackQuantized);
  const Artifact artifact("glm", config);
  const auto folder = artifact.quantized.folder();
  const nlohmann::ordered_json raw = open_decoder(folder).config().raw;
  const auto with = [&](const nlohmann::ordered_json& quantization) {
    nlohmann::ordered_json changed = raw;
    changed["quantization_config"] = quantization;
    std::ofstream(folder / "config.json") << changed.dump();
    return Decoder::open(folder);
  };
  nlohmann::ordered_json json = config.to_json();

  json["quant_method"] = "awq";
  Status status = with(json).status();
  EXPECT_EQ(status.code(), StatusCode::kBadInput);
  EXPECT_THAT(status.message(), HasSubstr("config.json"));
  EXPECT_THAT(status.message(), HasSubstr("awq"));

  QuantConfig static_activations = config;
  static_activations.config_groups[0].second.input_activations = QuantArgs{.strategy = Strategy::kChannel};
  EXPECT_THAT(with(static_activations.to_json()).status().message(), HasSubstr("static"));
  static_activations.config_groups[0].second.input_activations = QuantArgs{.strategy = Strategy::kTensor};
  EXPECT_THAT(with(static_activations.to_json()).value().load_block(0).status().message(),
              HasSubstr("q_proj.input_scale' is missing"));

  QuantConfig ignoring = config;
  ignoring.ignore = {"model.layers.1.self_attn.o_proj"};
  status = with(ignoring.to_json()).status();
  EXPECT_EQ(status.code(), StatusCode::kBadInput);
  EXPECT_THAT(status.message(),
              HasSubstr("module 'model.layers.1.self_attn.o_proj' is stored quantized, but no scheme"));

  QuantConfig other = config;
  other.config_groups[0].second.weights->num_bits = 5;
  status = with(other.to_json()).value().load_block(0).status();
  EXPECT_EQ(status.code(), StatusCode::kBadInput);
  EXPECT_THAT(status.message(), HasSubstr("weight_packed"));
}

}  // namespace
}  // namespace autoglm::model
