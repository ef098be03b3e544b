#include "compress/search/swaps.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "compress/search/testing.h"
#include "core/eval/test_folder.h"
#include "core/format/tiny_models.h"

namespace autoglm::search {
namespace {

struct Setting {
  explicit Setting(const std::string& family)
      : source(model::Decoder::open(format::kTiny / family).value()), text(testing::random_tokens(16, 32, 1)) {
    recipe.method = "rtn";
    SensitivityOptions options;
    options.schemes = {"int2-g32", "int3-g32", "int4-g32", "int6-g32", "int8-g32"};
    options.tokens = 512;
    options.length = 32;
    CancelToken cancel;
    sensitivity = measure_sensitivity(source, recipe, methods, text, options, cancel).value();
    const SizeRange range = size_range(sensitivity, Profile::kAny);
    bytes = range.smallest + (range.largest - range.smallest) / 6;
  }

  Result<Swapped> swap(const Allocation& start) {
    CancelToken cancel;
    const SwapOptions options{.rounds = 3, .tokens = 512, .length = 32, .scratch = folder.path()};
    return measure_swaps(source, recipe, methods, sensitivity, start, bytes, Profile::kAny, text, options, cancel);
  }

  /// Of the model written with these formats.
  double divergence(const Allocation& allocation) {
    const auto written =
        testing::written(source, with_allocation(recipe, sensitivity, allocation), folder.path() / "written");
    return testing::divergence(source, written.value(), text);
  }

  model::Decoder source;
  std::vector<eval::Tokens> text;
  pass::Registry methods = testing::registry();
  pass::Recipe recipe;
  Sensitivity sensitivity;
  int64_t bytes = 0;
  eval::TestFolder folder;
};

class SwapsCase : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Tiny, SwapsCase, ::testing::Values("glm4", "chatglm", "glm4_moe"));

TEST_P(SwapsCase, MendWhatEstimatesGotWrong) {
  Setting setting(GetParam());
  // As if the first layer hardly mattered: it is left with few bits.
  for (Group& group : setting.sensitivity.groups) {
    if (group.name.find("layers.0.") == std::string::npos) continue;
    for (Candidate& candidate : group.candidates) candidate.loss /= 1000;
  }
  const Allocation start = allocate(setting.sensitivity, setting.bytes, Profile::kAny).value();
  const auto swapped = setting.swap(start);
  ASSERT_TRUE(swapped.ok()) << swapped.status().message();
  EXPECT_LE(swapped->allocation.bytes, setting.bytes);
  EXPECT_GT(swapped->measurements, 10);
  EXPECT_LT(swapped->kl_after, 0.8 * swapped->kl_before);
  // What is measured is what the files say.
  EXPECT_NEAR(swapped->kl_before, setting.divergence(start), 1e-4 * swapped->kl_before);
  EXPECT_NEAR(swapped->kl_after, setting.divergence(swapped->allocation), 1e-4 * swapped->kl_after);
  EXPECT_EQ(setting.swap(start)->allocation.choices, swapped->allocation.choices);
}

TEST(Swaps, NeverLoseMoreAndLeaveNothingBehind) {
  Setting setting("qwen3");
  const Allocation start = allocate(setting.sensitivity, setting.bytes, Profile::kAny).value();
  const auto swapped = setting.swap(start);
  ASSERT_TRUE(swapped.ok()) << swapped.status().message();
  EXPECT_LE(swapped->kl_after, swapped->kl_before);
  EXPECT_LE(swapped->allocation.bytes, setting.bytes);
  EXPECT_TRUE(std::filesystem::is_empty(setting.folder.path()));
}

}  // namespace
}  // namespace autoglm::search
