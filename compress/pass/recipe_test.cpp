#include "compress/pass/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compress/pass/registry.h"

namespace autoglm::pass {
namespace {

using ::testing::HasSubstr;

TEST(Scheme, ParsesAndPrintsEveryWord) {
  for (const char* kind : {"int2", "int3", "int4", "int5", "int6", "int7", "int8", "w8a8"}) {
    for (const char* scope : {"", "-g32", "-g128", "-channel", "-tensor"}) {
      for (const char* symmetry : {"", "-asym", "-restricted"}) {
        for (const char* more : {"", "-minmax", "-static", "-static-minmax"}) {
          const std::string word = std::string(kind) + scope + symmetry + more;
          const auto scheme = Scheme::parse(word);
          const bool activations = kind == std::string("w8a8");
          if (activations ? std::string(scope).starts_with("-g") : std::string(more).starts_with("-static")) {
            EXPECT_FALSE(scheme.ok()) << word;
            continue;
          }
          ASSERT_TRUE(scheme.ok()) << word << ": " << scheme.status().message();
          const auto again = Scheme::parse(scheme->to_string());
          ASSERT_TRUE(again.ok()) << scheme->to_string();
          EXPECT_EQ(*again, *scheme) << word << " printed as " << scheme->to_string();
        }
      }
    }
  }
  for (const char* word : {"fp16", "bf16", "fp32"}) EXPECT_EQ(Scheme::parse(word)->to_string(), word);
}

TEST(Scheme, HasTheUsualDefaults) {
  const Scheme int4 = *Scheme::parse("int4");
  EXPECT_EQ(int4.weights.strategy, format::Strategy::kGroup);
  EXPECT_EQ(int4.weights.group_size, 128);
  EXPECT_TRUE(int4.weights.symmetric);
  EXPECT_FALSE(int4.group_size_given);
  EXPECT_EQ(int4.format(), "pack-quantized");
  EXPECT_EQ(Scheme::parse("int8")->weights.strategy, format::Strategy::kChannel);
  const Scheme w8a8 = *Scheme::parse("w8a8");
  EXPECT_EQ(w8a8.format(), "int-quantized");
  ASSERT_TRUE(w8a8.activations.has_value());
  EXPECT_TRUE(w8a8.activations->dynamic);
  EXPECT_EQ(w8a8.activations->strategy, format::Strategy::kToken);
  const Scheme fixed = *Scheme::parse("w8a8-static");
  EXPECT_TRUE(fixed.calibrates_input());
  EXPECT_FALSE(w8a8.calibrates_input());
  EXPECT_EQ(fixed.activations->strategy, format::Strategy::kTensor);
  const Scheme narrow = *Scheme::parse("int8-restricted");
  EXPECT_EQ(narrow.q_min(), -127);
  EXPECT_EQ(narrow.q_max(), 127);
}

TEST(Scheme, RefusesWithHelp) {
  const std::vector<std::pair<const char*, const char*>> cases = {{"itn4", "int4"},
                                                                  {"int9", "int8"},
                                                                  {"", "int4"},
                                                                  {"int4-assym", "asym"},
                                                                  {"int4-g0", "group size"},
                                                                  {"int4-g32-g64", "contradicts"},
                                                                  {"int4-g99999999999999999999", "group size"},
                                                                  {"bf16-g32", "means nothing"},
                                                                  {"int4-asym-restricted", "symmetric"},
                                                                  {"w8a8-g32", "channel"},
                                                                  {"int8-static", "w8a8-static"},
                                                                  {"w8a8-static-static", "static"},
                                                                  {"int4-", "option"}};
  for (const auto& [word, part] : cases) {
    const auto scheme = Scheme::parse(word);
    ASSERT_FALSE(scheme.ok()) << word;
    EXPECT_EQ(scheme.status().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(scheme.status().message(), HasSubstr(part)) << word;
  }
}

TEST(Recipe, SurvivesJson) {
  Recipe recipe;
  recipe.scheme = *Scheme::parse("int3-g64-asym-minmax");
  recipe.method = "rtn";
  recipe.embedding = *Scheme::parse("int8");
  recipe.overrides = {*Recipe::parse_override("layers\\.0\\..*=int8"), *Recipe::parse_override("down_proj$=keep"),
                      *Recipe::parse_override("a=b=int4:gptq")};
  recipe.ignore = {"lm_head"};
  recipe.repair = 0.05;
  recipe.methods = {{"gptq", {{"damping", 0.05}}}};
  const auto again = Recipe::from_json(nlohmann::json::parse(recipe.to_json().dump()));
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(again->to_json(), recipe.to_json());
  EXPECT_EQ(again->overrides[2].pattern, "a=b");
  EXPECT_EQ(again->overrides[2].method, "gptq");
  EXPECT_FALSE(again->overrides[1].scheme.has_value());
  EXPECT_FALSE(again->head.has_value());
}

TEST(Recipe, RefusesUnknownAndWrongFieldsByName) {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {R"({"shceme": "int4"})", "scheme"},
      {R"({"scheme": 4})", "'scheme' must be a string"},
      {R"({"scheme": "keep"})", "keep"},
      {R"({"head": "int44"})", "head"},
      {R"({"overrides": {}})", "'overrides' must be a list"},
      {R"({"overrides": [{"match": "a", "scheme": "int4", "methid": "rtn"}]})", "overrides[0]"},
      {R"({"overrides": [{"match": "a"}]})", "needs 'match' and 'scheme'"},
      {R"({"overrides": [{"match": "(", "scheme": "int4"}]})", "the regex '(' is invalid"},
      {R"({"ignore": ["x", 3]})", "ignore[1]"},
      {R"({"repair": 5})", "'repair' must be a share"},
      {R"({"repair": "100%"})", "'repair' must be a share"},
      {R"({"repair": [1]})", "'repair' must be a share"},
      {R"({"methods": []})", "'methods' must be an object"},
      {R"([])", "must be an object"},
  };
  for (const auto& [text, part] : cases) {
    const auto recipe = Recipe::from_json(nlohmann::json::parse(text));
    ASSERT_FALSE(recipe.ok()) << text;
    EXPECT_THAT(recipe.status().message(), HasSubstr(part)) << text;
  }
}

TEST(Recipe, RefusesBadOverrides) {
  EXPECT_THAT(Recipe::parse_override("layers").status().message(), HasSubstr("PATTERN=SCHEME"));
  EXPECT_THAT(Recipe::parse_override("a=int").status().message(), HasSubstr("override 'a=int'"));
  EXPECT_FALSE(Recipe::parse_override("=int4").ok());
  EXPECT_FALSE(Recipe::parse_override(std::string(5000, '(') + "=int4").ok());
}

TEST(Registry, RefusesUnknownNamesWithTheList) {
  Registry registry;
  registry.add("gptq", [](const nlohmann::json&) -> Result<std::unique_ptr<Pass>> { return internal_error("unused"); });
  const Status status = registry.make("gtpq", {}).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("gptq"));
}

}  // namespace
}  // namespace autoglm::pass
