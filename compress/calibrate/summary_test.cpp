#include "compress/calibrate/summary.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "compress/calibrate/statistics.h"

namespace autoglm::calibrate {
namespace {

at::Tensor inputs() {
  at::manual_seed(3);
  // An offset that float32 sums of squares would drown in, and a channel of another size.
  return at::randn({700, 12}) * at::linspace(0.1, 3, 12) + 1000;
}

InputSummary in_pieces(const at::Tensor& x, int64_t rows) {
  InputSummary out;
  for (int64_t first = 0; first < x.size(0); first += rows) {
    out.add(x.narrow(0, first, std::min(rows, x.size(0) - first)));
  }
  return out;
}

void expect_same(const InputSummary& a, const InputSummary& b) {
  EXPECT_EQ(a.tokens(), b.tokens());
  EXPECT_EQ(a.observed().min, b.observed().min);
  EXPECT_EQ(a.observed().max, b.observed().max);
  EXPECT_NEAR(a.mean(), b.mean(), 1e-4);
  EXPECT_NEAR(a.variance(), b.variance(), 1e-4 * a.variance());
  EXPECT_NEAR(a.token_absmax_mean(), b.token_absmax_mean(), 1e-6);
  EXPECT_EQ(a.token_absmax_min(), b.token_absmax_min());
  EXPECT_TRUE(a.channel_min().equal(b.channel_min()));
  EXPECT_TRUE(a.channel_max().equal(b.channel_max()));
  EXPECT_TRUE(a.channel_mean().allclose(b.channel_mean(), 1e-6, 0));
  EXPECT_TRUE(a.channel_variance().allclose(b.channel_variance(), 1e-3, 0));
  EXPECT_EQ(jensen_shannon_distance(a.observed().histogram, b.observed().histogram), 0);
}

TEST(InputSummary, IsThatOfAllValuesHoweverTheyAreCut) {
  const at::Tensor x = inputs(), exact = x.to(at::kDouble);
  for (const int64_t rows : {1, 37, 128, 700}) {
    const InputSummary summary = in_pieces(x, rows);
    EXPECT_NEAR(summary.mean(), exact.mean().item<double>(), 1e-4);
    EXPECT_NEAR(summary.variance(), exact.var(false).item<double>(), 1e-3 * exact.var(false).item<double>());
    EXPECT_TRUE(summary.channel_variance().allclose(exact.var(0, false), 1e-3, 0));
    EXPECT_NEAR(summary.token_absmax_mean(), exact.abs().amax(1).mean().item<double>(), 1e-4);
    expect_same(summary, in_pieces(x, 700));
    EXPECT_EQ(summary.observed().average_max, in_pieces(x, 700).observed().average_max);
  }
}

TEST(InputSummary, Merges) {
  const at::Tensor x = inputs();
  InputSummary first, second, nothing;
  first.add(x.narrow(0, 0, 250));
  second.add(x.narrow(0, 250, 450));
  first.merge(second);
  first.merge(nothing);
  nothing.merge(first);
  expect_same(first, in_pieces(x, 700));
  expect_same(nothing, first);
}

TEST(InputSummary, AveragesTheRangeOfSteps) {
  at::Tensor x = at::zeros({3 * InputSummary::kStep + 5, 2});
  x.narrow(0, 0, 1).fill_(1);                      // first step: maximum 1
  x.narrow(0, InputSummary::kStep, 1).fill_(101);  // second: 101
  x.narrow(0, x.size(0) - 1, 1).fill_(1e6);        // in a step that is not full
  const InputSummary summary = in_pieces(x, 100);
  EXPECT_NEAR(summary.observed().average_max, 0.99 * (1 + 0.01 * 100), 1e-12);
  EXPECT_EQ(summary.observed().max, 1e6);
  EXPECT_NEAR(in_pieces(x.narrow(0, 0, 7), 2).observed().average_max, 1, 0);
}

TEST(Statistics, WithASummaryNameWhatIsNotFinite) {
  StatisticsBuilder builder({.summary = true}, 4);
  builder.add(at::ones({2, 3}));
  at::Tensor bad = at::ones({2, 3});
  bad[1][2] = std::numeric_limits<float>::quiet_NaN();
  builder.add(bad);
  const auto result = builder.finish("layer 3");
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.status().message().find("layer 3"), std::string::npos);
}

}  // namespace
}  // namespace autoglm::calibrate
