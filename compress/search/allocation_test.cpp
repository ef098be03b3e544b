#include "compress/search/allocation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compress/model/decoder.h"
#include "compress/pass/resolve.h"
#include "compress/search/testing.h"
#include "core/format/tiny_models.h"

namespace autoglm::search {
namespace {

using ::testing::HasSubstr;

Sensitivity example() {
  Sensitivity out;
  out.other_bytes = 100;
  out.parameters = 2400;
  out.groups = {
      {"model.embed_tokens", "embedding", {"model.embed_tokens"}, 800, {{"int2-g32", 200, 0.5}, {"keep", 1600, 0}}},
      {"model.layers.0.mlp.down_proj",
       "linear",
       {"model.layers.0.mlp.down_proj"},
       800,
       {{"int2-g32", 200, 1.0}, {"int3-g32", 300, 0.4}, {"int4-g32", 400, 0.1}, {"keep", 1600, 0}}},
      {"lm_head", "head", {"lm_head"}, 800, {{"int4-g32", 400, 0.2}, {"keep", 1600, 0}}},
  };
  return out;
}

std::vector<std::string> words(const Sensitivity& sensitivity, const Allocation& allocation) {
  std::vector<std::string> out;
  for (size_t i = 0; i < allocation.choices.size(); ++i) {
    out.push_back(sensitivity.groups[i].candidates[allocation.choices[i]].scheme);
  }
  return out;
}

TEST(Allocation, SpendsTheBudgetWhereItHelpsMost) {
  const Sensitivity sensitivity = example();
  const auto least = allocate(sensitivity, 900, Profile::kAny);
  ASSERT_TRUE(least.ok()) << least.status().message();
  EXPECT_EQ(words(sensitivity, *least), (std::vector<std::string>{"int2-g32", "int2-g32", "int4-g32"}));
  EXPECT_EQ(least->bytes, 900);
  EXPECT_DOUBLE_EQ(least->loss, 1.7);
  EXPECT_EQ(words(sensitivity, *allocate(sensitivity, 1100, Profile::kAny)),
            (std::vector<std::string>{"int2-g32", "int4-g32", "int4-g32"}));
  EXPECT_EQ(words(sensitivity, *allocate(sensitivity, 1 << 20, Profile::kAny)),
            (std::vector<std::string>{"keep", "keep", "keep"}));
}

TEST(Allocation, KeepsToTheProfile) {
  const Sensitivity sensitivity = example();
  EXPECT_EQ(words(sensitivity, *allocate(sensitivity, 2500, Profile::kTransformers)),
            (std::vector<std::string>{"keep", "int4-g32", "int4-g32"}));
  EXPECT_EQ(words(sensitivity, *allocate(sensitivity, 3700, Profile::kVllm)),
            (std::vector<std::string>{"keep", "int4-g32", "keep"}));
  EXPECT_TRUE(allocate(sensitivity, 2300, Profile::kTransformers).ok());
  EXPECT_FALSE(allocate(sensitivity, 2299, Profile::kTransformers).ok());
  EXPECT_EQ(profile_of("vllm").value(), Profile::kVllm);
  EXPECT_THAT(profile_of("vlm").status().message(), HasSubstr("vllm"));
}

/// What is chosen is what resolve() makes of the recipe, module by module.
TEST(Allocation, BecomesARecipeThatMeansTheSame) {
  for (const char* family : {"chatglm", "glm4", "glm4_moe", "glm4_tied", "glm4v"}) {
    const model::Decoder source = model::Decoder::open(format::kTiny / family).value();
    const pass::Registry registry = testing::registry();
    CancelToken cancel;
    SensitivityOptions options;
    options.schemes = {"int3-g32", "int5-channel", "int4-g32-asym"};
    options.tokens = 64;
    options.length = 16;
    const auto sensitivity =
        measure_sensitivity(source, {}, registry, {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}}, options, cancel);
    ASSERT_TRUE(sensitivity.ok()) << family << ": " << sensitivity.status().message();
    Allocation allocation;
    for (size_t i = 0; i < sensitivity->groups.size(); ++i) {
      allocation.choices.push_back(i % sensitivity->groups[i].candidates.size());
    }
    const pass::Recipe recipe = with_allocation({}, *sensitivity, allocation);
    const auto resolved =
        pass::resolve(recipe, source.config(), source.layout(), &source.checkpoint(), registry, false);
    ASSERT_TRUE(resolved.ok()) << family << ": " << resolved.status().message();
    for (size_t i = 0; i < sensitivity->groups.size(); ++i) {
      const Group& group = sensitivity->groups[i];
      const std::string& word = group.candidates[allocation.choices[i]].scheme;
      for (const pass::Decision& decision : resolved->decisions) {
        if (std::find(group.modules.begin(), group.modules.end(), decision.module.name) == group.modules.end())
          continue;
        EXPECT_EQ(decision.scheme ? decision.scheme->to_string() : "keep",
                  word == "keep" ? word : pass::Scheme::parse(word)->to_string())
            << family << " " << decision.module.name;
      }
    }
  }
}

}  // namespace
}  // namespace autoglm::search
