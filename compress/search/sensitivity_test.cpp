#include "compress/search/sensitivity.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compress/pass/pipeline.h"
#include "compress/search/testing.h"
#include "core/eval/test_folder.h"
#include "core/format/tiny_models.h"

namespace autoglm::search {
namespace {

using testing::divergence;
using ::testing::HasSubstr;
using testing::random_tokens;

Result<Sensitivity> measure(const std::string& family, const pass::Recipe& recipe,
                            const std::vector<std::string>& schemes, int64_t tokens = 2048) {
  CancelToken cancel;
  AUTOGLM_ASSIGN_OR_RETURN(const model::Decoder source, model::Decoder::open(format::kTiny / family));
  SensitivityOptions options;
  options.schemes = schemes;
  options.tokens = tokens;
  options.length = 32;
  return measure_sensitivity(source, recipe, testing::registry(), random_tokens(64, 32, 1), options, cancel);
}

class SensitivityFamily : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Tiny, SensitivityFamily,
                         ::testing::Values("chatglm", "glm", "glm4", "glm4_tied", "glm4v", "glm4_moe", "qwen3"));

/// The estimate against what rounding everything really costs.
TEST_P(SensitivityFamily, ForeseesTheDivergence) {
  const auto sensitivity = measure(GetParam(), {}, {"int6-channel"});
  ASSERT_TRUE(sensitivity.ok()) << sensitivity.status().message();
  double estimated = 0;
  for (const Group& group : sensitivity->groups) estimated += group.candidates.front().loss;

  const eval::TestFolder scratch;
  const model::Decoder source = model::Decoder::open(format::kTiny / GetParam()).value();
  pass::Recipe recipe;
  recipe.scheme = *pass::Scheme::parse("int6-channel");
  recipe.embedding = recipe.head = recipe.scheme;
  const auto written = testing::written(source, recipe, scratch.path() / "out");
  ASSERT_TRUE(written.ok()) << written.status().message();
  const double measured = divergence(source, *written, random_tokens(64, 32, 1));
  // That other experts are chosen has no gradient.
  EXPECT_GT(estimated, (GetParam() == "glm4_moe" ? 0.25 : 0.5) * measured) << measured;
  EXPECT_LT(estimated, 2 * measured) << measured;
}

TEST(Sensitivity, CountsEveryByteThatIsWritten) {
  const auto sensitivity = measure("glm4_moe", {}, {"int4-g32"}, 64);
  ASSERT_TRUE(sensitivity.ok()) << sensitivity.status().message();
  int64_t bytes = sensitivity->other_bytes, kept = sensitivity->other_bytes;
  for (const Group& group : sensitivity->groups) {
    ASSERT_EQ(group.candidates.size(), 2u) << group.name;
    EXPECT_EQ(group.candidates.back().scheme, "keep");
    EXPECT_EQ(group.candidates.back().loss, 0);
    bytes += group.candidates.front().bytes;
    kept += group.candidates.back().bytes;
  }
  const model::Decoder source = model::Decoder::open(format::kTiny / "glm4_moe").value();
  const pass::Registry registry = testing::registry();
  pass::Recipe recipe;
  recipe.scheme = *pass::Scheme::parse("int4-g32");
  recipe.embedding = recipe.head = recipe.scheme;
  const auto resolved =
      pass::resolve(recipe, source.config(), source.layout(), &source.checkpoint(), registry, false).value();
  EXPECT_EQ(bytes, pass::make_plan(recipe, registry, resolved, &source.checkpoint(), {})->bytes_after);
  EXPECT_EQ(kept, source.checkpoint().total_bytes());
}

/// A tied head costs nothing while it is the embedding, and a table of its own otherwise.
TEST(Sensitivity, CountsTiedTablesOnce) {
  const model::Decoder source = model::Decoder::open(format::kTiny / "glm4_tied").value();
  const int64_t table = format::element_count(source.stored().embedding().shape).value();
  const auto together = measure("glm4_tied", {}, {"int4-g32"}, 64);
  ASSERT_TRUE(together.ok()) << together.status().message();
  const Group& both = together->groups.front();
  EXPECT_EQ(both.modules.size(), 2u);
  EXPECT_EQ(both.parameters, table);
  const int64_t stored = source.checkpoint().find(source.stored().embedding().weight_name())->nbytes;
  EXPECT_EQ(both.candidates.back().bytes, stored);
  int64_t parameters = 0;
  for (const std::string& name : source.checkpoint().names()) {
    parameters += format::element_count(source.checkpoint().find(name)->shape).value();
  }
  EXPECT_EQ(together->parameters, parameters);

  pass::Recipe recipe;
  recipe.embedding = *pass::Scheme::parse("int8");  // then a head that is kept is a table of its own
  const auto apart = measure("glm4_tied", recipe, {"int4-g32"}, 64);
  ASSERT_TRUE(apart.ok()) << apart.status().message();
  EXPECT_EQ(apart->groups.front().kind, "head");
  EXPECT_EQ(apart->groups.front().candidates.back().bytes, stored);
  recipe.embedding.reset();
  recipe.ignore = {"embed_tokens"};
  const auto kept = measure("glm4_tied", recipe, {"int4-g32"}, 64);
  ASSERT_TRUE(kept.ok()) << kept.status().message();
  EXPECT_EQ(kept->groups.front().kind, "linear");  // what is said of the table is said of the head that it is
}

TEST(Sensitivity, GroupsWhatLoadersReadTogether) {
  const auto sensitivity = measure("glm4_moe", {}, {"int4-g32", "int4-g32-asym"}, 64);
  ASSERT_TRUE(sensitivity.ok()) << sensitivity.status().message();
  int experts = 0;
  for (const Group& group : sensitivity->groups) {
    if (group.kind == "experts") {
      ++experts;
      EXPECT_EQ(group.name, "routed experts");
      EXPECT_EQ(group.candidates.size(), 2u);  // no zero points for experts
    }
    const bool queries = group.name.find("q_proj") != std::string::npos;
    EXPECT_EQ(queries, group.name.find("q_proj+k_proj+v_proj") != std::string::npos) << group.name;
  }
  EXPECT_EQ(experts, 1);
}

TEST(Sensitivity, LeavesToTheRecipeWhatItDecides) {
  pass::Recipe recipe;
  recipe.head = *pass::Scheme::parse("int8");
  recipe.ignore = {"layers\\.0\\."};
  recipe.overrides.push_back({"down_proj", *pass::Scheme::parse("int8"), ""});
  const auto sensitivity = measure("glm4", recipe, {"int4-g32"}, 64);
  ASSERT_TRUE(sensitivity.ok()) << sensitivity.status().message();
  for (const Group& group : sensitivity->groups) {
    EXPECT_EQ(group.name.find("layers.0."), std::string::npos);
    EXPECT_EQ(group.name.find("down_proj"), std::string::npos);
    EXPECT_NE(group.kind, "head");
  }
  EXPECT_THAT(measure("glm4",
                      [] {
                        pass::Recipe nothing;
                        nothing.ignore = {"."};
                        return nothing;
                      }(),
                      {"int4-g32"})
                  .status()
                  .message(),
              HasSubstr("no module whose format could be chosen"));
}

TEST(Sensitivity, IsTheSameAgainAndSurvivesItsFile) {
  const auto first = measure("glm4", {}, {"int3-g32", "int4-g32-asym"}, 256);
  const auto second = measure("glm4", {}, {"int3-g32", "int4-g32-asym"}, 256);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->to_json().dump(), second->to_json().dump());
  const auto again = Sensitivity::from_json(nlohmann::json::parse(first->to_json().dump()));
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(again->to_json().dump(), first->to_json().dump());
  EXPECT_THAT(Sensitivity::from_json({{"tokens", 3}}).status().message(), HasSubstr("no sensitivities"));
}

}  // namespace
}  // namespace autoglm::search
