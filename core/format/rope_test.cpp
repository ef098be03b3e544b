#include "core/format/rope.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

// The values of every rope type are compared with transformers' own in tests/config/test_agreement.py.
namespace autoglm::format {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

Json llama(const Json& rope) {
  return {{"model_type", "llama"},         {"vocab_size", 8},        {"hidden_size", 16},
          {"intermediate_size", 8},        {"num_hidden_layers", 1}, {"num_attention_heads", 2},
          {"max_position_embeddings", 64}, {"rope_parameters", rope}};
}

ModelConfig parsed(const Json& json) {
  auto config = ModelConfig::parse(json.dump());
  EXPECT_TRUE(config.ok()) << config.status().message();
  return config.ok() ? *config : ModelConfig{};
}

std::string refusal(const Json& rope) {
  const auto config = ModelConfig::parse(llama(rope).dump());
  EXPECT_FALSE(config.ok()) << rope;
  return config.status().message();
}

TEST(Rope, DefaultFrequenciesFallGeometrically) {
  const ModelConfig c = parsed(llama({{"rope_theta", 10000.0}}));
  const std::vector<double> f = rope_inverse_frequencies(c);
  ASSERT_EQ(f.size(), 4U);  // heads of 8
  for (size_t i = 0; i < f.size(); ++i) EXPECT_DOUBLE_EQ(f[i], std::pow(10.0, -static_cast<double>(i)));
  EXPECT_EQ(rope_attention_scaling(c), 1.0);
}

TEST(Rope, DynamicLeavesTrainedLengthsAloneAndSlowsLongerOnes) {
  const ModelConfig plain = parsed(llama({{"rope_theta", 10000.0}}));
  const ModelConfig dynamic = parsed(llama({{"rope_theta", 10000.0}, {"rope_type", "dynamic"}, {"factor", 2.0}}));
  EXPECT_EQ(rope_inverse_frequencies(dynamic), rope_inverse_frequencies(plain));
  EXPECT_EQ(rope_inverse_frequencies(dynamic, 64), rope_inverse_frequencies(plain));
  const std::vector<double> longer = rope_inverse_frequencies(dynamic, 128);
  EXPECT_EQ(longer[0], 1.0);
  for (size_t i = 1; i < longer.size(); ++i) EXPECT_LT(longer[i], rope_inverse_frequencies(plain)[i]);
}

TEST(Rope, PropertiesHoldForEveryType) {
  const Json types[] = {{{"rope_type", "linear"}, {"factor", 4}},
                        {{"rope_type", "dynamic"}, {"factor", 4}},
                        {{"rope_type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 16}},
                        {{"rope_type", "llama3"}, {"factor", 4}, {"low_freq_factor", 1}, {"high_freq_factor", 4}},
                        {{"rope_type", "longrope"}, {"short_factor", {1, 1, 2, 2}}, {"long_factor", {1, 2, 3, 4}}}};
  for (const Json& type : types) {
    const ModelConfig c = parsed(llama(type));
    for (const int64_t length : {0, 16, 64, 65, 1 << 20}) {
      const std::vector<double> f = rope_inverse_frequencies(c, length);
      ASSERT_EQ(f.size(), 4U) << type;
      for (size_t i = 0; i < f.size(); ++i) {
        EXPECT_TRUE(std::isfinite(f[i]) && f[i] > 0 && f[i] <= 1) << type;
        if (i > 0) {
          EXPECT_LT(f[i], f[i - 1]) << type;
        }
      }
    }
    EXPECT_GE(rope_attention_scaling(c), 1.0) << type;
  }
}

TEST(Rope, RefusesWhatCannotBeComputed) {
  EXPECT_THAT(refusal({{"rope_type", "lienar"}, {"factor", 2}}),
              AllOf(HasSubstr("unknown rope_type 'lienar'; did you mean 'linear'?"), HasSubstr("longrope")));
  EXPECT_THAT(refusal({{"rope_type", 3}}), HasSubstr("rope_type is 3"));
  EXPECT_THAT(refusal({{"rope_type", "linear"}}), HasSubstr("factor is missing, rope type 'linear' needs it"));
  EXPECT_THAT(refusal({{"rope_type", "linear"}, {"factor", 0}}), HasSubstr("factor is 0"));
  EXPECT_THAT(refusal({{"rope_type", "linear"}, {"factor", "2"}}), HasSubstr("factor is \"2\""));
  EXPECT_THAT(refusal({{"rope_type", "llama3"}, {"factor", 2}, {"low_freq_factor", 4}, {"high_freq_factor", 4}}),
              HasSubstr("high_freq_factor must be greater"));
  EXPECT_THAT(refusal({{"rope_type", "yarn"}, {"truncate", 1}}), HasSubstr("truncate is 1, must be true or false"));
  EXPECT_THAT(refusal({{"rope_type", "longrope"}, {"short_factor", {1, 1}}, {"long_factor", {1, 1, 1, 1}}}),
              HasSubstr("short_factor must be a list of 4 numbers"));
  EXPECT_THAT(refusal({{"rope_type", "longrope"}, {"short_factor", {1, 1, 1, 1}}, {"long_factor", {1, nullptr, 1, 1}}}),
              HasSubstr("long_factor[1] is null"));
  EXPECT_THAT(refusal({{"rope_theta", 1.0}}), HasSubstr("rope_theta is 1.0"));
  EXPECT_THAT(refusal({{"rope_theta", nullptr}, {"full_attention", {{"rope_theta", 1e4}}}}),
              HasSubstr("'full_attention' for layers of one type"));
  EXPECT_THAT(refusal({{"partial_rotary_factor", 0.5}}), HasSubstr("a llama model rotates whole heads"));

  Json scalar = llama({});
  scalar["rope_parameters"] = "yarn";
  EXPECT_THAT(ModelConfig::parse(scalar.dump()).status().message(), HasSubstr("rope_parameters is \"yarn\""));
}

TEST(Rope, PartialRotationNeedsAnEvenNumberOfDimensions) {
  Json glm = llama({{"rope_theta", 10000.0}, {"partial_rotary_factor", 0.25}});
  glm["model_type"] = "glm";
  glm["num_key_value_heads"] = 1;
  glm["head_dim"] = 8;
  EXPECT_EQ(parsed(glm).rotary_dim, 2);
  glm["rope_parameters"]["partial_rotary_factor"] = 0.4;
  EXPECT_THAT(ModelConfig::parse(glm.dump()).status().message(), HasSubstr("gives 3 rotated dimensions"));
  glm["rope_parameters"]["partial_rotary_factor"] = 0;
  EXPECT_THAT(ModelConfig::parse(glm.dump()).status().message(), HasSubstr("gives 0 rotated dimensions"));
}

TEST(Rope, MropeSectionsCoverTheRotatedPairs) {
  Json glm4v = llama({{"rope_theta", 10000.0}, {"partial_rotary_factor", 0.5}, {"mrope_section", {1, 1, 0}}});
  glm4v["model_type"] = "glm4v";
  glm4v["num_key_value_heads"] = 1;
  EXPECT_THAT(parsed(glm4v).mrope_section, ::testing::ElementsAre(1, 1, 0));
  glm4v["rope_parameters"]["mrope_section"] = {1, 2};
  EXPECT_THAT(ModelConfig::parse(glm4v.dump()).status().message(), HasSubstr("mrope_section adds up to 3, must be 2"));
  glm4v["rope_parameters"]["mrope_section"] = {3, -1};
  EXPECT_THAT(ModelConfig::parse(glm4v.dump()).status().message(), HasSubstr("mrope_section's entry is -1"));
  glm4v["rope_parameters"]["mrope_section"] = 2;
  EXPECT_THAT(ModelConfig::parse(glm4v.dump()).status().message(), HasSubstr("mrope_section must be a list"));
}

}  // namespace
}  // namespace autoglm::format
