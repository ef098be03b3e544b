#include "compress/calibrate/histogram.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace autoglm::calibrate {
namespace {

std::vector<float> normal_values(size_t count, float mean, float deviation, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(mean, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

Histogram of(std::span<const float> values) {
  Histogram out;
  out.add(values);
  return out;
}

bool same(const Histogram& a, const Histogram& b) {
  return a.limit() == b.limit() &&
         std::equal(a.counts().begin(), a.counts().end(), b.counts().begin(), b.counts().end());
}

TEST(Histogram, DoesNotDependOnOrderOrCuts) {
  std::vector<float> values = normal_values(5000, 0.1F, 1, 1);
  for (size_t i = 0; i < values.size(); i += 50) values[i] *= 100;  // the range grows on the way
  const Histogram whole = of(values);
  EXPECT_EQ(whole.total(), 5000);
  EXPECT_EQ(std::accumulate(whole.counts().begin(), whole.counts().end(), int64_t{0}), 5000);
  Histogram pieces;
  for (size_t first = 0; first < values.size(); first += 7) {
    pieces.add(std::span(values).subspan(first, std::min<size_t>(7, values.size() - first)));
  }
  EXPECT_TRUE(same(pieces, whole));
  std::reverse(values.begin(), values.end());
  EXPECT_TRUE(same(of(values), whole));
  Histogram merged = of(std::span(values).first(100));
  merged.merge(Histogram());
  merged.merge(of(std::span(values).subspan(100)));
  EXPECT_TRUE(same(merged, whole));
}

TEST(Histogram, KnowsQuantilesToABin) {
  const std::vector<float> values = normal_values(100000, 0, 1, 2);
  const Histogram histogram = of(values);
  EXPECT_NEAR(histogram.quantile(0.5), 0, 0.02);
  EXPECT_NEAR(histogram.quantile(0.975), 1.96, 0.03);
  EXPECT_LE(*std::max_element(values.begin(), values.end()), histogram.quantile(1) + 1e-6);
  EXPECT_EQ(Histogram().quantile(0.5), 0);
}

TEST(Histogram, FoldsSignsAndBins) {
  const std::vector<float> values = {-0.75F, 0.75F, -0.01F, 0.01F, 0.5F};
  const Histogram histogram = of(values);
  EXPECT_EQ(histogram.limit(), 1);
  const std::vector<int64_t> magnitudes = histogram.magnitudes();
  EXPECT_EQ(magnitudes[static_cast<size_t>(0.01 / histogram.width())], 2);
  EXPECT_EQ(std::accumulate(magnitudes.begin(), magnitudes.end(), int64_t{0}), 5);
  EXPECT_EQ(histogram.coarse(4), (std::vector<int64_t>{1, 1, 1, 2}));
}

TEST(Histogram, TakesAnyFloat) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> values = {0,      -0.0F,    1e-40F,    3e38F,
                                     -3e38F, infinity, -infinity, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_EQ(of(values).total(), 8);
  EXPECT_EQ(of(std::vector<float>{0, 0}).total(), 2);
  EXPECT_TRUE(of({}).empty());
}

TEST(JensenShannon, LiesBetweenEqualAndApart) {
  const Histogram a = of(normal_values(20000, 0, 1, 3)), b = of(normal_values(20000, 0, 1, 4)),
                  wide = of(normal_values(20000, 0, 2, 5)), far = of(std::vector<float>{500, 600});
  EXPECT_EQ(jensen_shannon_distance(a, a), 0);
  EXPECT_LT(jensen_shannon_distance(a, b), jensen_shannon_distance(a, wide));
  EXPECT_DOUBLE_EQ(jensen_shannon_distance(a, wide), jensen_shannon_distance(wide, a));
  EXPECT_NEAR(jensen_shannon_distance(a, far), 1, 1e-9);
  EXPECT_EQ(jensen_shannon_distance(a, Histogram()), 0);
}

}  // namespace
}  // namespace autoglm::calibrate
