#include "core/format/model_config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "core/format/rope.h"

namespace autoglm::format {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;
namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

const fs::path kConfigs = fs::path(AUTOGLM_SOURCE_DIR) / "tests/data/configs";

std::string read(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

Json fixture(const std::string& name) { return Json::parse(read(kConfigs / (name + ".json"))); }

ModelConfig parsed(const Json& json) {
  auto config = ModelConfig::parse(json.dump());
  EXPECT_TRUE(config.ok()) << config.status().message();
  return config.ok() ? *config : ModelConfig{};
}

/// The one line that `json` is refused with.
std::string refusal(std::string_view json) {
  const auto config = ModelConfig::parse(json);
  EXPECT_FALSE(config.ok()) << json.substr(0, 400);
  EXPECT_EQ(config.status().code(), StatusCode::kBadInput);
  EXPECT_EQ(config.status().message().find('\n'), std::string::npos);
  EXPECT_LT(config.status().message().size(), 400U);
  return config.status().message();
}
std::string refusal_of(const Json& json) { return refusal(json.dump()); }

/// `name`'s fixture with members replaced.
Json with(const std::string& name, const Json& changes) {
  Json json = fixture(name);
  json.update(changes);
  return json;
}

TEST(ModelConfig, ReadsEveryFixture) {
  int count = 0;
  for (const auto& entry : fs::directory_iterator(kConfigs)) {
    const auto config = ModelConfig::parse(read(entry.path()));
    EXPECT_TRUE(config.ok()) << entry.path() << ": " << config.status().message();
    ++count;
  }
  EXPECT_GE(count, 17);
}

TEST(ModelConfig, ReadsChatGlmInItsOwnSpelling) {
  const ModelConfig c = parsed(fixture("glm_4_9b_chat"));
  EXPECT_EQ(c.family, Family::kChatGlm);
  EXPECT_EQ(c.vocab_size, 151552);
  EXPECT_EQ(c.intermediate_size, 13696);
  EXPECT_EQ(c.num_hidden_layers, 40);
  EXPECT_EQ(c.num_key_value_heads, 2);
  EXPECT_EQ(c.head_dim, 128);
  EXPECT_EQ(c.rotary_dim, 64);
  EXPECT_EQ(c.rope_theta, 5e6);
  EXPECT_EQ(c.max_position_embeddings, 131072);
  EXPECT_EQ(c.rms_norm_eps, 1.5625e-7);
  EXPECT_EQ(c.rotary_layout, RotaryLayout::kInterleaved);
  EXPECT_TRUE(c.fused_qkv && c.fused_gate_up && c.attention_bias);
  EXPECT_FALSE(c.output_bias || c.mlp_bias || c.sandwich_norms || c.qk_norm || c.tie_word_embeddings);
  EXPECT_THAT(c.eos_token_ids, ElementsAre(151329, 151336, 151338));
  EXPECT_EQ(c.dtype, DType::kBF16);

  // vocab_size beside padded_vocab_size is the tokenizer's; without grouped queries every head has its own keys.
  const ModelConfig plain = parsed(with("chatglm3_6b", {{"vocab_size", 64794}, {"multi_query_attention", false}}));
  EXPECT_EQ(plain.vocab_size, 65024);
  EXPECT_EQ(plain.num_key_value_heads, 32);
}

TEST(ModelConfig, TraitsThatAreNotInConfigJson) {
  EXPECT_TRUE(parsed(fixture("qwen2_5_0_5b")).attention_bias);
  EXPECT_FALSE(parsed(fixture("qwen2_5_0_5b")).output_bias);
  EXPECT_TRUE(parsed(fixture("qwen3_0_6b")).qk_norm);
  EXPECT_TRUE(parsed(with("llama2_7b", {{"attention_bias", true}})).output_bias);
  EXPECT_TRUE(parsed(with("qwen3_0_6b", {{"attention_bias", true}})).output_bias);
  EXPECT_FALSE(parsed(fixture("glm4_9b_0414")).output_bias);
  EXPECT_TRUE(parsed(fixture("glm4_9b_0414")).sandwich_norms);
  const ModelConfig vision = parsed(fixture("glm4_1v_9b"));
  EXPECT_TRUE(vision.sandwich_norms && vision.attention_bias && vision.fused_gate_up);
  EXPECT_THAT(vision.mrope_section, ElementsAre(8, 12, 12));
  const ModelConfig moe = parsed(fixture("glm4_5"));
  EXPECT_EQ(moe.rotary_layout, RotaryLayout::kHalfSplit);
  EXPECT_TRUE(moe.qk_norm && moe.attention_bias);
  EXPECT_FALSE(moe.fused_gate_up);
  EXPECT_FALSE(moe.is_moe_layer(2));
  EXPECT_TRUE(moe.is_moe_layer(3));
  EXPECT_EQ(moe.routed_scaling_factor, 2.5);
}

TEST(ModelConfig, TakesTheEndFromGenerationConfig) {
  const fs::path folder = fs::temp_directory_path() / fmt::format("autoglm-config-{}", ::getpid());
  fs::create_directories(folder);
  std::ofstream(folder / "config.json") << fixture("qwen2_5_0_5b");
  std::ofstream(folder / "generation_config.json") << R"({"eos_token_id": [151645, 151643]})";
  auto config = ModelConfig::load(folder);
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_THAT(config->eos_token_ids, ElementsAre(151645, 151643));

  std::ofstream(folder / "generation_config.json") << R"({"eos_token_id": "end"})";
  EXPECT_THAT(ModelConfig::load(folder).status().message(), HasSubstr("eos_token_id is \"end\""));
  std::ofstream(folder / "generation_config.json") << "[";
  EXPECT_THAT(ModelConfig::load(folder).status().message(), HasSubstr("generation_config.json: not valid JSON"));
  std::ofstream(folder / "generation_config.json") << "[]";
  EXPECT_THAT(ModelConfig::load(folder).status().message(), HasSubstr("generation_config.json: must be a JSON object"));

  fs::remove(folder / "generation_config.json");
  std::ofstream(folder / "config.json") << with("llama2_7b", {{"hidden_size", -1}});
  EXPECT_THAT(ModelConfig::load(folder).status().message(),
              AllOf(HasSubstr(folder.string() + "/config.json: hidden_size is -1")));
  fs::remove(folder / "config.json");
  EXPECT_THAT(ModelConfig::load(folder).status().message(), HasSubstr("not a model folder, it has no config.json"));
  fs::remove_all(folder);
  EXPECT_THAT(ModelConfig::load(folder).status().message(), HasSubstr("no such model folder"));
}

TEST(ModelConfig, SpecialTokens) {
  EXPECT_THAT(parsed(with("llama2_7b", {{"eos_token_id", nullptr}})).eos_token_ids, ElementsAre(2));
  EXPECT_EQ(parsed(with("llama2_7b", {{"pad_token_id", 32000}})).pad_token_id, -1);  // has no row
  EXPECT_EQ(parsed(with("llama2_7b", {{"pad_token_id", -1}})).pad_token_id, -1);
  EXPECT_THAT(refusal_of(with("llama2_7b", {{"eos_token_id", {1, -5}}})), HasSubstr("eos_token_id[1] is -5"));
  EXPECT_THAT(refusal_of(with("llama2_7b", {{"eos_token_id", 4294967296}})), HasSubstr("eos_token_id is 4294967296"));
}

TEST(ModelConfig, RefusesRelativesAndStrangersByName) {
  const std::string known = "chatglm, glm, glm4, glm4v, glm4_moe, llama";
  EXPECT_THAT(refusal(R"({"model_type": "chatglm", "position_encoding_2d": true, "inner_hidden_size": 16384,
                          "architectures": ["ChatGLMModel"], "num_layers": 28, "vocab_size": 130528})"),
              AllOf(HasSubstr("first ChatGLM-6B"), HasSubstr(known)));
  EXPECT_THAT(refusal(R"({"model_type": "glm", "architectures": ["GLMModel"], "block_position_encoding": true,
                          "num_layers": 24, "vocab_size": 50048, "hidden_size": 1024})"),
              AllOf(HasSubstr("blank-infilling GLM (glm-large"), HasSubstr(known)));
  EXPECT_THAT(refusal(R"({"model_type": "glm", "architectures": ["GLMForConditionalGeneration"]})"),
              HasSubstr("blank-infilling"));
  EXPECT_THAT(
      refusal(R"({"model_type": "glm4_mo"})"),
      AllOf(HasSubstr("unknown model_type 'glm4_mo'"), HasSubstr("did you mean 'glm4_moe'?"), HasSubstr("qwen3")));
  EXPECT_THAT(refusal(R"({"model_type": "mamba\n2"})"), HasSubstr(known));
  EXPECT_THAT(refusal("{}"), HasSubstr("model_type is missing"));
  EXPECT_THAT(refusal(R"({"model_type": 7})"), HasSubstr("model_type"));
  Json vision = fixture("glm4_1v_9b");
  vision["text_config"]["model_type"] = "glm4v_moe_text";
  EXPECT_THAT(refusal_of(vision), HasSubstr("'glm4v_moe_text', only 'glm4v_text'"));
  vision["text_config"] = 3;
  EXPECT_THAT(refusal_of(vision), HasSubstr("text_config is 3"));
}

TEST(ModelConfig, RefusesMathematicsItDoesNotHave) {
  EXPECT_THAT(refusal_of(with("llama2_7b", {{"hidden_act", "gelu"}})), HasSubstr("hidden_act is \"gelu\""));
  EXPECT_EQ(parsed(with("llama2_7b", {{"hidden_act", "swish"}})).family, Family::kLlama);
  const std::pair<const char*, Json> traits[] = {
      {"rmsnorm", false},        {"post_layer_norm", false}, {"apply_residual_connection_post_layernorm", true},
      {"add_bias_linear", true}, {"original_rope", false},   {"interleaved_qkv", true},
      {"quantization_bit", 4},   {"pre_seq_len", 128}};
  for (const auto& [key, value] : traits) {
    EXPECT_THAT(refusal_of(with("chatglm3_6b", {{key, value}})), AllOf(HasSubstr(key), HasSubstr("supported"))) << key;
  }
}

TEST(ModelConfig, RefusesRealSlidingWindowsOnly) {
  const Json windows = {{"use_sliding_window", true}, {"sliding_window", 1024}, {"max_window_layers", 4}};
  EXPECT_THAT(refusal_of(with("qwen2_5_0_5b", windows)), HasSubstr("layer 4 attends to a sliding window of 1024"));
  for (const Json& harmless : {Json{{"max_window_layers", 24}}, Json{{"sliding_window", 32768}},
                               Json{{"sliding_window", nullptr}}, Json{{"use_sliding_window", false}}}) {
    Json json = with("qwen2_5_0_5b", windows);
    json.update(harmless);
    EXPECT_EQ(parsed(json).family, Family::kQwen2) << harmless;
  }
  Json typed = with("qwen3_0_6b", {{"use_sliding_window", true}, {"sliding_window", 512}});
  typed["layer_types"] = std::vector<std::string>(28, "full_attention");
  EXPECT_EQ(parsed(typed).family, Family::kQwen3);
  typed["layer_types"][7] = "sliding_attention";
  EXPECT_THAT(refusal_of(typed), HasSubstr("layer 7 attends"));
  typed["layer_types"][7] = "linear_attention";
  EXPECT_THAT(refusal_of(typed), HasSubstr("layer_types[7] is \"linear_attention\""));
  typed["layer_types"] = {"full_attention"};
  EXPECT_THAT(refusal_of(typed), HasSubstr("layer_types must list 28 words"));
}

TEST(ModelConfig, RefusesContradictions) {
  EXPECT_THAT(refusal_of(with("llama2_7b", {{"num_key_value_heads", 5}})),
              HasSubstr("num_key_value_heads 5 does not divide"));
  EXPECT_THAT(refusal_of(with("llama2_7b", {{"num_attention_heads", 33}, {"num_key_value_heads", 33}})),
              HasSubstr("num_attention_heads 33 does not divide hidden_size 4096"));
  EXPECT_THAT(refusal_of(with("glm4_5", {{"n_group", 7}})), HasSubstr("n_group 7 does not divide"));
  EXPECT_THAT(refusal_of(with("glm4_5", {{"n_group", 160}})), HasSubstr("leaves one expert"));
  EXPECT_THAT(refusal_of(with("glm4_5", {{"n_group", 4}, {"topk_group", 5}})), HasSubstr("topk_group 5 is greater"));
  EXPECT_THAT(refusal_of(with("glm4_5", {{"n_group", 80}, {"topk_group", 2}})),
              HasSubstr("num_experts_per_tok 8 is greater"));
  EXPECT_THAT(refusal_of(with("glm4_5", {{"n_routed_experts", 4}})), HasSubstr("num_experts_per_tok 8 is greater"));
  Json vision = fixture("glm4_1v_9b");
  vision["text_config"]["head_dim"] = 64;
  EXPECT_THAT(refusal_of(vision), HasSubstr("head_dim 64 times"));
}

TEST(ModelConfig, RefusesAbsurdSizes) {
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "num_key_value_heads", "head_dim", "max_position_embeddings"}) {
    for (const Json& value : {Json(0), Json(-7), Json(1LL << 40), Json(std::numeric_limits<uint64_t>::max()),
                              Json(4096.0), Json("4096"), Json(true), Json::array({4096}), Json::object()}) {
      EXPECT_THAT(refusal_of(with("glm_4_9b_chat_hf", {{key, value}})), HasSubstr(std::string(key) + " is ")) << value;
    }
  }
  EXPECT_THAT(refusal_of(with("glm_4_9b_chat_hf", {{"vocab_size", nullptr}})), HasSubstr("vocab_size is missing"));
  EXPECT_THAT(refusal_of(with("llama2_7b", {{"rms_norm_eps", -1e-5}})), HasSubstr("rms_norm_eps is -1e-05"));
  EXPECT_THAT(refusal_of(with("llama2_7b", {{"tie_word_embeddings", 1}})),
              HasSubstr("tie_word_embeddings is 1, must be true"));
  EXPECT_THAT(refusal_of(with("llama2_7b", {{"torch_dtype", "int4"}})), HasSubstr("torch_dtype is \"int4\""));
  // Each size within its bound, their product beyond reason; and a small file that asks for a million names.
  EXPECT_THAT(
      refusal_of(with("glm4_5",
                      {{"n_routed_experts", 16000}, {"moe_intermediate_size", 1 << 20}, {"hidden_size", 96 * 10000}})),
      HasSubstr("parameters, more than"));
  EXPECT_THAT(refusal_of(with("glm4_5", {{"n_routed_experts", 16000},
                                         {"num_hidden_layers", 4000},
                                         {"hidden_size", 96},
                                         {"moe_intermediate_size", 1}})),
              HasSubstr("4000 layers of 16000 experts"));
}

TEST(ModelConfig, RefusesHostileJson) {
  EXPECT_THAT(refusal(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal("[]"), HasSubstr("must be a JSON object"));
  EXPECT_THAT(refusal("null"), HasSubstr("must be a JSON object"));
  EXPECT_THAT(refusal(R"({"model_type": "glm")"), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal(R"({"model_type": "llama", "rms_norm_eps": NaN})"), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal(R"({"model_type": "llama", "rms_norm_eps": 1e999})"), HasSubstr("out of range"));
  EXPECT_THAT(refusal(R"({"model_type": "llama", "hidden_size": 1, "hidden_size": 2})"),
              HasSubstr("'hidden_size' occurs twice"));
  EXPECT_THAT(refusal(std::string(100000, '[')), HasSubstr("nested deeper"));
  EXPECT_THAT(refusal("{\"model_type\": \"\xff\"}"), HasSubstr("not valid JSON"));
  std::string many = "{";
  for (int i = 0; i < 30000; ++i) many += fmt::format("\"k{}\":0,", i);
  EXPECT_THAT(refusal(many + "\"model_type\":\"glm\"}"), HasSubstr("more than 20000 members"));
  EXPECT_THAT(refusal_of(with("llama2_7b", {{"hidden_size", std::string(100000, 'x')}})),
              HasSubstr("hidden_size is \"xxx"));
}

TEST(ModelConfig, DescribesWhatTheFamilyHas) {
  const auto lines = parsed(fixture("glm4_5_air")).describe();
  EXPECT_EQ(lines.front(), std::make_pair(std::string("model_type"), std::string("glm4_moe")));
  EXPECT_THAT(lines, Contains(Pair("n_routed_experts", "128")));
  EXPECT_THAT(lines, Contains(Pair("rope_theta", "1000000.0")));
  EXPECT_THAT(lines, Contains(Pair("rotary_dim", "64 (half-split)")));
  EXPECT_THAT(parsed(fixture("llama2_7b")).describe(), Not(Contains(Pair("n_routed_experts", ::testing::_))));
}

TEST(ModelConfig, RewritesChatGlmAsGlmAndLeavesOthersAlone) {
  Json source = fixture("glm_4_9b_chat");
  source["quantization_config"] = {{"quant_method", "compressed-tensors"}};
  const ModelConfig glm = parsed(source).as_transformers();
  EXPECT_EQ(glm.family, Family::kGlm);
  EXPECT_FALSE(glm.fused_qkv);
  EXPECT_EQ(glm.raw["architectures"], Json::array({"GlmForCausalLM"}));
  EXPECT_EQ(glm.raw["quantization_config"], source["quantization_config"]);
  EXPECT_FALSE(glm.raw.contains("auto_map"));
  const ModelConfig again = parsed(glm.raw);
  EXPECT_EQ(again.describe(), glm.describe());
  EXPECT_EQ(again.eos_token_ids, glm.eos_token_ids);
  EXPECT_EQ(again.dtype, glm.dtype);

  const ModelConfig llama = parsed(fixture("llama3_2_1b"));
  EXPECT_EQ(llama.as_transformers().raw, llama.raw);

  const ModelConfig nested = parsed(fixture("glm4v_flat")).as_transformers();
  EXPECT_EQ(nested.raw["text_config"]["model_type"], "glm4v_text");
  EXPECT_EQ(nested.raw["text_config"]["hidden_size"], 4096);
  EXPECT_FALSE(nested.raw.contains("hidden_size"));
  EXPECT_TRUE(nested.raw.contains("vision_config") && nested.raw.contains("image_token_id"));
  EXPECT_EQ(parsed(nested.raw).describe(), nested.describe());
}

TEST(ModelConfig, KnowsItsFamilies) {
  EXPECT_THAT(known_families(), ElementsAre("chatglm", "glm", "glm4", "glm4v", "glm4_moe", "llama", "qwen2", "qwen3"));
  EXPECT_EQ(to_string(Family::kGlm4Moe), "glm4_moe");
}

}  // namespace
}  // namespace autoglm::format
