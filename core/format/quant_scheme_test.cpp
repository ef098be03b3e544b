#include "core/format/quant_scheme.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/log.h"
#include "core/format/json.h"
#include "core/format/target_match.h"

namespace autoglm::format {
namespace {

using ::testing::HasSubstr;

Result<QuantConfig> parse(std::string_view text) {
  auto json = parse_json(text);
  if (!json.ok()) return json.status();
  return QuantConfig::parse(*json);
}

QuantConfig parsed(std::string_view text) {
  auto config = parse(text);
  EXPECT_TRUE(config.ok()) << config.status().message();
  return config.ok() ? *config : QuantConfig();
}

std::string refusal(std::string_view text) {
  const auto config = parse(text);
  EXPECT_FALSE(config.ok()) << text;
  EXPECT_EQ(config.status().code(), StatusCode::kBadInput);
  std::string message = config.status().message();
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_THAT(message, HasSubstr("quantization_config"));
  return message;
}

// As llm-compressor 0.14 writes it.
constexpr const char* kLlmCompressor = R"({
  "config_groups": {"group_0": {
    "format": "pack-quantized", "input_activations": null, "output_activations": null, "targets": ["Linear"],
    "weights": {"actorder": "static", "dynamic": false, "group_size": 32, "num_bits": 4, "observer": "memoryless_minmax",
                "strategy": "group", "symmetric": false, "type": "int"}}},
  "format": "pack-quantized", "global_compression_ratio": null, "ignore": ["lm_head", "re:.*mlp\\.gate$"],
  "kv_cache_scheme": {"num_bits": 8, "type": "float"}, "quant_method": "compressed-tensors",
  "quantization_status": "compressed", "sparsity_config": {}, "transform_config": {}, "version": "0.20.0"})";

TEST(QuantConfig, ReadsWhatLlmCompressorWrites) {
  const QuantConfig config = parsed(kLlmCompressor);
  ASSERT_EQ(config.config_groups.size(), 1u);
  const QuantScheme& scheme = config.config_groups[0].second;
  EXPECT_EQ(scheme.weights->num_bits, 4);
  EXPECT_EQ(scheme.weights->strategy, Strategy::kGroup);
  EXPECT_EQ(scheme.weights->group_size, 32);
  EXPECT_FALSE(scheme.weights->symmetric);
  EXPECT_EQ(scheme.weights->extra.at("actorder"), "static");
  EXPECT_FALSE(scheme.input_activations.has_value());
  EXPECT_EQ(config.format_of(scheme), "pack-quantized");
  EXPECT_EQ(config.extra.at("kv_cache_scheme").at("type"), "float");
  EXPECT_NE(config.scheme_for("model.layers.0.mlp.up_proj", "Linear"), nullptr);
  EXPECT_EQ(config.scheme_for("model.layers.0.mlp.gate", "Linear"), nullptr);
  EXPECT_EQ(config.scheme_for("lm_head", "Linear"), nullptr);
  EXPECT_EQ(config.scheme_for("model.embed_tokens", "Embedding"), nullptr);
}

TEST(QuantConfig, ReadsWhatItWrites) {
  QuantConfig config;
  config.format = kMixedPrecision;
  config.ignore = {"lm_head", "re:.*\\.gate"};
  config.config_groups.emplace_back(
      "group_0",
      QuantScheme{.targets = {"Linear"},
                  .weights = QuantArgs{.num_bits = 8, .strategy = Strategy::kChannel},
                  .input_activations = QuantArgs{.num_bits = 8, .strategy = Strategy::kToken, .dynamic = true},
                  .format = std::string(kIntQuantized)});
  config.config_groups.emplace_back("group_1", QuantScheme{.targets = {"re:.*q_proj", "Embedding"},
                                                           .weights = QuantArgs{.num_bits = 3,
                                                                                .symmetric = false,
                                                                                .strategy = Strategy::kGroup,
                                                                                .group_size = 64,
                                                                                .extra = {{"actorder", "weight"}}},
                                                           .format = std::string(kPackQuantized)});
  config.config_groups.emplace_back("group_2",
                                    QuantScheme{.targets = {"re:.*k_proj"},
                                                .weights = QuantArgs{.num_bits = 2, .strategy = Strategy::kTensor},
                                                .format = std::string(kPackQuantized)});
  config.extra = {{"version", "0.20.0"}, {"kv_cache_scheme", nullptr}};
  const auto json = config.to_json();
  EXPECT_EQ(json.at("quantization_status"), "compressed");
  const auto back = QuantConfig::parse(json);
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_EQ(back->config_groups, config.config_groups);
  EXPECT_EQ(back->ignore, config.ignore);
  EXPECT_EQ(back->format, config.format);
  EXPECT_EQ(QuantConfig::parse(back->to_json())->to_json(), back->to_json());
  EXPECT_EQ(parsed(kLlmCompressor), *QuantConfig::parse(parsed(kLlmCompressor).to_json()));
}

TEST(QuantConfig, ReadsPresets) {
  const QuantConfig config = parsed(R"({"format": "mixed-precision", "config_groups": {
      "W4A16": ["Linear"], "w8a8": ["re:.*down_proj"], "W4A16_ASYM": ["re:.*up_proj"], "W3A8": ["re:.*o_proj"],
      "UNQUANTIZED": ["re:.*gate_proj"]}})");
  const auto scheme = [&](std::string_view name) { return config.scheme_for(name, "Linear"); };
  EXPECT_EQ(scheme("a.q_proj")->weights->group_size, 128);
  EXPECT_EQ(scheme("a.q_proj")->format, "pack-quantized");
  EXPECT_TRUE(scheme("a.q_proj")->weights->symmetric);
  EXPECT_FALSE(scheme("a.up_proj")->weights->symmetric);
  EXPECT_EQ(scheme("a.down_proj")->weights->strategy, Strategy::kChannel);
  EXPECT_EQ(scheme("a.down_proj")->format, "int-quantized");
  EXPECT_TRUE(scheme("a.down_proj")->input_activations->dynamic);
  EXPECT_EQ(scheme("a.o_proj")->weights->num_bits, 3);
  EXPECT_EQ(scheme("a.o_proj")->input_activations->num_bits, 8);
  EXPECT_EQ(scheme("a.gate_proj"), nullptr);
  for (const char* name : {"FP8", "NVFP4", "W9A16", "W1A16", "W8A4", "W4A32", "W4", "", "W4A16X"}) {
    EXPECT_THAT(refusal(std::string(R"({"format":"pack-quantized","config_groups":{")") + name + R"(": ["Linear"]}})"),
                HasSubstr("preset"));
  }
}

TEST(QuantConfig, InfersStrategiesAsCompressedTensorsDoes) {
  const auto weights = [](const std::string& members) {
    return *parsed(R"({"format":"pack-quantized","config_groups":{"g":{"targets":["Linear"],"weights":{)" + members +
                   "}}}}")
                .config_groups[0]
                .second.weights;
  };
  EXPECT_EQ(weights("").strategy, Strategy::kTensor);
  EXPECT_EQ(weights("").num_bits, 8);
  EXPECT_EQ(weights(R"("group_size": -1)").strategy, Strategy::kChannel);
  EXPECT_EQ(weights(R"("group_size": 32)").strategy, Strategy::kGroup);
  EXPECT_EQ(weights(R"("group_size": -1, "strategy": "channel")").group_size, 0);
  EXPECT_EQ(weights(R"("group_size": null, "strategy": "CHANNEL", "type": "INT")").strategy, Strategy::kChannel);
}

TEST(QuantConfig, RefusesByName) {
  EXPECT_THAT(refusal("[]"), HasSubstr("no object"));
  EXPECT_THAT(refusal(R"({"quant_method":"gptq","bits":4})"),
              HasSubstr("quant_method is 'gptq', but only compressed-tensors is read"));
  EXPECT_THAT(refusal(R"({"quant_method":["a\nb"]})"), HasSubstr("quant_method"));
  EXPECT_THAT(refusal("{}"), HasSubstr("has no format"));
  EXPECT_THAT(refusal(R"({"format":"float-quantized","config_groups":{}})"), HasSubstr("'float-quantized'"));
  EXPECT_THAT(refusal(R"({"format":"dense","config_groups":{}})"), HasSubstr("'dense'"));
  EXPECT_THAT(refusal(R"({"format":"pack-quantized"})"), HasSubstr("config_groups"));
  EXPECT_THAT(refusal(R"({"format":"pack-quantized","config_groups":{},"ignore":[1]})"), HasSubstr("ignore"));
  EXPECT_THAT(refusal(R"({"format":"pack-quantized","config_groups":{},"ignore":["re:("]})"),
              HasSubstr("the regex '(' is invalid"));
  EXPECT_THAT(
      refusal(R"({"format":"pack-quantized","config_groups":{},"sparsity_config":{"format":"sparse-24-bitmask"}})"),
      HasSubstr("sparsity_config"));
  EXPECT_THAT(
      refusal(R"({"format":"pack-quantized","config_groups":{},"transform_config":{"config_groups":{"u":{}}}})"),
      HasSubstr("transform_config"));
  const auto group = [](const std::string& scheme) {
    return refusal(R"({"format":"pack-quantized","config_groups":{"group_7":)" + scheme + "}}");
  };
  EXPECT_THAT(group("3"), HasSubstr("'group_7': is no object"));
  EXPECT_THAT(group("{}"), HasSubstr("has no targets"));
  EXPECT_THAT(group(R"({"targets":["Linear"],"wieghts":{}})"), HasSubstr("unknown member 'wieghts'"));
  EXPECT_THAT(group(R"({"targets":["Linear"],"output_activations":{}})"), HasSubstr("output_activations"));
  EXPECT_THAT(group(R"({"targets":"Linear"})"), HasSubstr("targets: is no list"));
  EXPECT_THAT(group(R"({"targets":["re:*"]})"), HasSubstr("the regex '*' is invalid"));
  EXPECT_THAT(group(R"({"targets":["Linear"],"weights":{},"format":"marlin-24"})"), HasSubstr("'marlin-24'"));
  EXPECT_THAT(group(R"({"targets":["Linear"],"input_activations":{}})"), HasSubstr("activations alone"));
  const auto weights = [&](const std::string& members) {
    std::string message = group(R"({"targets":["Linear"],"weights":{)" + members + "}}");
    EXPECT_THAT(message, HasSubstr("weights: "));
    return message;
  };
  for (const char* bits : {"0", "9", "16", "-4", "4.0", "\"4\"", "18446744073709551612", "true"}) {
    EXPECT_THAT(weights(std::string(R"("num_bits":)") + bits), HasSubstr("num_bits"));
  }
  for (const char* size : {"-2", "18446744073709551615", "9223372036854775807", "1.5", "\"32\""}) {
    EXPECT_THAT(weights(std::string(R"("strategy":"group","group_size":)") + size), HasSubstr("group_size"));
  }
  EXPECT_THAT(weights(R"("strategy":"group")"), HasSubstr("contradicts group_size"));
  EXPECT_THAT(weights(R"("strategy":"group","group_size":0)"), HasSubstr("contradicts group_size"));
  EXPECT_THAT(weights(R"("strategy":"channel","group_size":32)"), HasSubstr("contradicts group_size"));
  EXPECT_THAT(weights(R"("strategy":"block","block_structure":[128,128])"), HasSubstr("strategy is 'block'"));
  EXPECT_THAT(weights(R"("type":"float")"), HasSubstr("type is 'float'"));
  EXPECT_THAT(weights(R"("symmetric":1)"), HasSubstr("symmetric"));
  EXPECT_THAT(weights(R"("dynamic":"local")"), HasSubstr("dynamic is 'local'"));
  EXPECT_THAT(weights(R"("dynamic":true)"), HasSubstr("dynamic"));
  EXPECT_THAT(weights(R"("actorder":"group")"), HasSubstr("weight_g_idx"));
  EXPECT_THAT(weights(R"("actorder":true)"), HasSubstr("actorder"));
}

TEST(QuantConfig, ChoosesTheClosestTarget) {
  const QuantConfig config = parsed(R"({"format":"pack-quantized","config_groups":{
    "a":{"targets":["Linear","re:model\\.layers\\.1\\..*"],"weights":{"num_bits":1}},
    "b":{"targets":["re:.*q_proj$","model.layers.1.k_proj"],"weights":{"num_bits":2}},
    "c":{"targets":["re:layers","Linear"],"weights":{"num_bits":3}},
    "d":{"targets":["Embedding"],"weights":{"num_bits":4}},
    "e":{"targets":["re:model\\.x"]}},
    "ignore":["re:.*\\.v_proj","skip","LayerNorm"]})");
  const auto bits = [&](std::string_view name, std::string_view type = "Linear") {
    const QuantScheme* scheme = config.scheme_for(name, type);
    return scheme == nullptr ? 0 : scheme->weights->num_bits;
  };
  EXPECT_EQ(bits("model.layers.0.o_proj"), 3);  // two groups name Linear: the last one counts
  EXPECT_EQ(bits("model.layers.1.o_proj"), 1);  // a regex before a class
  EXPECT_EQ(bits("model.layers.1.q_proj"), 2);  // "re:.*" comes before "re:model"
  EXPECT_EQ(bits("model.layers.1.k_proj"), 2);  // an equal name before a regex
  EXPECT_EQ(bits("model.layers.1.v_proj"), 0);
  EXPECT_EQ(bits("skip"), 0);
  EXPECT_EQ(bits("embed", "Embedding"), 4);
  EXPECT_EQ(bits("norm", "LayerNorm"), 0);
  EXPECT_EQ(bits("model.x"), 0);            // its closest target says float
  EXPECT_EQ(bits("layers.0", "Other"), 3);  // regexes match from the start of the name
  EXPECT_EQ(bits("model.layers.0", "Other"), 0);
  EXPECT_EQ(parsed(R"({"format":"pack-quantized","config_groups":{"a":{"targets":["Module"],"weights":{}}}})")
                .scheme_for("x", "Embedding")
                ->weights->num_bits,
            8);
}

TEST(TargetMatch, BoundsHostileRegexes) {
  const std::string name = std::string(200, 'a') + "b";
  EXPECT_EQ(match_target("re:(a|aa)+$", name, "Linear"), TargetMatch::kNone);
  EXPECT_THAT(warnings().back(), HasSubstr("'(a|aa)+$' gives up"));
  EXPECT_FALSE(check_target("re:" + std::string(5000, 'a')).ok());
  EXPECT_FALSE(check_target("re:" + std::string(2000, '(') + std::string(2000, ')')).ok());
  EXPECT_FALSE(check_target("re:((a{1000}){1000}){1000}").ok());
  EXPECT_FALSE(check_target("re:\xff").ok());
  EXPECT_EQ(match_target("re:.*", "\xff", "Linear"), TargetMatch::kNone);
  EXPECT_EQ(match_target("re:(?P<layer>model)\\.(?:a|b)(?!c)", "model.ax", "Linear"), TargetMatch::kRegex);
}

}  // namespace
}  // namespace autoglm::format
