#include "compress/quant/awq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "compress/quant/rtn.h"
#include "compress/quant/smoothing_testing.h"

namespace autoglm::quant {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): this room's own helpers
using ::testing::HasSubstr;
using ::testing::StartsWith;

at::Tensor clipped(const at::Tensor& weight, const at::Tensor& x, const std::string& word) {
  pass::Target target = target_of(weight, word);
  calibrate::InputStatistics statistics = statistics_of(x, {.sample_tokens = x.size(0)});
  target.input = &statistics;
  std::vector<pass::Target*> stage = {&target};
  EXPECT_TRUE(make_awq({}).value()->run(stage, cancel()).ok());
  return dequantized(target);
}

at::Tensor rounded(const at::Tensor& weight, const std::string& word) {
  pass::Target target = target_of(weight, word);
  EXPECT_TRUE(round_to_nearest(target, cancel()).ok());
  return dequantized(target);
}

TEST(AwqClip, NeverHasAnOutputErrorAboveRoundToNearestOnTheSample) {
  const at::Tensor weight = random_normal({24, 96}, 1), x = correlated_inputs(200, 96, 2);
  for (const char* word : {"int4-g32", "int3-g32-asym", "int2-g16", "int4-channel", "int3-g32-minmax", "int8-tensor"}) {
    const at::Tensor before = rounded(weight, word), after = clipped(weight, x, word);
    for (int64_t r = 0; r < weight.size(0); ++r) {
      EXPECT_LE(output_error(x, weight.narrow(0, r, 1), after.narrow(0, r, 1)),
                output_error(x, weight.narrow(0, r, 1), before.narrow(0, r, 1)) * (1 + 1e-5))
          << word << " row " << r;
    }
  }
  EXPECT_LT(output_error(x, weight, clipped(weight, x, "int3-g32")),
            0.85 * output_error(x, weight, rounded(weight, "int3-g32")));
}

TEST(AwqClip, ClipsAWeightWhoseInputIsSmall) {
  // By hand: a group of two, symmetric 2 bits (-2..1). Column 0 holds an outlier whose input is nearly zero.
  const at::Tensor weight = at::tensor({-8.0F, 0.5F}).view({1, 2});
  at::Tensor x = at::ones({64, 2});
  x.select(1, 0).fill_(1e-3);
  const at::Tensor after = clipped(weight, x, "int2-g2-minmax");
  const double plain = (rounded(weight, "int2-g2-minmax") - weight)[0][1].abs().item<double>();
  EXPECT_LT((after - weight)[0][1].abs().item<double>(), plain);
}

TEST(AwqClip, AwkwardShapesAndBadInput) {
  const at::Tensor x = correlated_inputs(3, 8, 3);
  EXPECT_EQ(clipped(random_normal({1, 8}, 4), x, "int4-g8").size(0), 1);
  EXPECT_TRUE(clipped(at::zeros({2, 8}), x, "int4-g8").eq(0).all().item<bool>());
  pass::Target unseen = target_of(random_normal({2, 8}, 5), "int4-g8");
  calibrate::InputStatistics nothing;
  unseen.input = &nothing;
  at::Tensor broken = random_normal({2, 8}, 5).clone();
  broken[1][3] = NAN;
  pass::Target bad = target_of(broken, "int4-g8");
  calibrate::InputStatistics statistics = statistics_of(x, {.sample_tokens = 3});
  bad.input = &statistics;
  const auto pass = make_awq({}).value();
  std::vector<pass::Target*> stage = {&unseen};
  ASSERT_TRUE(pass->run(stage, cancel()).ok());
  EXPECT_THAT(unseen.note, HasSubstr("no calibration token"));
  stage = {&bad};
  const Status status = pass->run(stage, cancel());
  EXPECT_EQ(status.code(), StatusCode::kBadInput);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("layer.proj"), HasSubstr("row 1, column 3")));
  EXPECT_THAT(make_awq({{"alpha", 1}}).status().message(), HasSubstr("alpha"));
  EXPECT_THAT(make_awq_scales({{"alpha", 1}}).status().message(), HasSubstr("alpha"));
}

TEST(AwqScales, HelpWhereFewChannelsMatterAndNeverHurtOnTheSample) {
  for (const uint64_t seed : {1, 2, 3}) {
    for (const char* word : {"int4-g32", "int3-g32-asym", "int4-channel"}) {
      at::Tensor x = random_normal({200, 64}, seed) * 0.1;
      x.slice(1, 0, 64, 16).mul_(100);  // salient channels
      Folding folding({random_normal({40, 64}, seed + 10), random_normal({16, 64}, seed + 20)}, x, word);
      ASSERT_TRUE(make_awq_scales({}).value()->run(folding.target, cancel()).ok());
      const double none = folding.error(at::ones({64})), chosen = folding.error(folding.target.scales);
      EXPECT_LT(chosen, 0.8 * none) << word;
      EXPECT_THAT(folding.target.note, StartsWith("AWQ α 0."));
    }
  }
  for (const uint64_t seed : {4, 5}) {  // nothing to gain
    Folding folding({random_normal({8, 64}, seed)}, random_normal({300, 64}, seed + 5), "int4-g32");
    ASSERT_TRUE(make_awq_scales({}).value()->run(folding.target, cancel()).ok());
    EXPECT_LE(folding.error(folding.target.scales), folding.error(at::ones({64})));
  }
}

TEST(AwqScales, AreEqualForTheHeadsOfOneGroupAndSurviveDeadChannels) {
  at::Tensor x = correlated_inputs(200, 32, 6);
  x.select(1, 3).zero_();
  x.select(1, 11).zero_();  // the same channel of the other head of its group
  Folding folding({random_normal({24, 32}, 7)}, x, "int3-g8", /*head=*/8, /*copies=*/2);
  ASSERT_TRUE(make_awq_scales({}).value()->run(folding.target, cancel()).ok());
  EXPECT_EQ(folding.target.scales.numel(), 16);
  EXPECT_TRUE((folding.target.scales > 0).logical_and(at::isfinite(folding.target.scales)).all().item<bool>());
  const at::Tensor columns = folding.target.by_column(folding.target.scales).view({2, 2, 8});
  EXPECT_TRUE(columns.select(1, 0).equal(columns.select(1, 1)));
}

TEST(AwqScales, JudgeScalesAsTheyWillBeStored) {
  at::Tensor x = random_normal({200, 64}, 8) * 0.1;
  x.slice(1, 0, 64, 16).mul_(100);
  Folding folding({random_normal({40, 64}, 9)}, x, "int4-g32");
  folding.target.storable = [](const at::Tensor& wanted) { return at::exp2(at::log2(wanted).round()); };
  ASSERT_TRUE(make_awq_scales({}).value()->run(folding.target, cancel()).ok());
  const at::Tensor exponents = at::log2(folding.target.scales);
  EXPECT_TRUE(exponents.equal(exponents.round()));
  EXPECT_LT(folding.error(folding.target.scales), folding.error(at::ones({64})));
}

}  // namespace
}  // namespace autoglm::quant
