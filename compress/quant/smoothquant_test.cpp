#include "compress/quant/smoothquant.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "compress/model/linear.h"
#include "compress/quant/rtn.h"
#include "compress/quant/smoothing_testing.h"

namespace autoglm::quant {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): this room's own helpers
using ::testing::HasSubstr;

at::Tensor with_outliers(uint64_t seed) {
  at::Tensor x = random_normal({300, 48}, seed);
  x.select(1, 5).mul_(60);
  x.select(1, 31).mul_(40);
  return x;
}

TEST(SmoothQuant, ByHandWithAGivenStrength) {
  // Equation 4 with α = 0.5: s = sqrt(max|x| / max|w|), then centred: divided by sqrt(max s * min s).
  const at::Tensor x = at::tensor({4.0F, -1.0F, -16.0F, 0.5F}).view({2, 2});
  Folding folding({at::tensor({1.0F, 0.5F}).view({1, 2}), at::tensor({-0.25F, 1.0F}).view({1, 2})}, x, "w8a8");
  ASSERT_TRUE(make_smoothquant({{"strength", 0.5}}).value()->run(folding.target, cancel()).ok());
  // s = {4, 1}; centre 2.
  EXPECT_TRUE(at::allclose(folding.target.scales, at::tensor({2.0F, 0.5F})));
  EXPECT_EQ(folding.target.note, "SmoothQuant α 0.5");
}

TEST(SmoothQuant, EqualisesOutlierChannelsAndLessensTheErrorOfW8A8) {
  const at::Tensor x = with_outliers(1), weight = random_normal({32, 48}, 2);
  Folding folding({weight}, x, "w8a8");
  ASSERT_TRUE(make_smoothquant({}).value()->run(folding.target, cancel()).ok());
  const at::Tensor scales = folding.target.scales;
  const auto spread = [](const at::Tensor& sizes) { return (sizes.amax() / sizes.median()).item<double>(); };
  EXPECT_LT(spread((x / scales).abs().amax(0)), 0.3 * spread(x.abs().amax(0)));
  EXPECT_LT(folding.error(scales), 0.5 * folding.error(at::ones({48})));

  // The search's error is that of the whole computation, written out here.
  pass::Target scaled = target_of(weight * scales, "w8a8");
  ASSERT_TRUE(round_to_nearest(scaled, cancel()).ok());
  const at::Tensor rounded_x = model::fake_quantize(x / scales, {*scaled.scheme.activations});
  const at::Tensor difference = at::mm(x, weight.t()) - at::mm(rounded_x, dequantized(scaled).t());
  EXPECT_NEAR(folding.error(scales), difference.square().sum().item<double>(), 1e-3 * folding.error(scales));
}

TEST(SmoothQuant, FoldsIntoNormsAloneAndNeverHurtsOnTheSample) {
  const auto method = make_smoothquant({}).value();
  EXPECT_TRUE(method->folds(format::FoldKind::kInputNorm) && method->folds(format::FoldKind::kMlpNorm));
  EXPECT_FALSE(method->folds(format::FoldKind::kValue) || method->folds(format::FoldKind::kUp));
  for (const char* word : {"w8a8", "int8", "int4-g16", "int8-tensor"}) {
    at::Tensor x = with_outliers(3);
    x.select(1, 7).zero_();
    at::Tensor weight = random_normal({8, 48}, 4).clone();
    weight.select(1, 9).zero_();
    Folding folding({weight, random_normal({8, 48}, 5)}, x, word);
    ASSERT_TRUE(method->run(folding.target, cancel()).ok());
    EXPECT_LE(folding.error(folding.target.scales), folding.error(at::ones({48}))) << word;
  }
}

TEST(SmoothQuant, RefusesBadOptions) {
  for (const nlohmann::json& options :
       {nlohmann::json{{"strength", 1.5}}, {{"strength", -0.1}}, {{"strength", "half"}}, {{"stength", 0.5}}}) {
    const auto made = make_smoothquant(options);
    EXPECT_EQ(made.status().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(made.status().message(), HasSubstr("strength"));
  }
}

}  // namespace
}  // namespace autoglm::quant
