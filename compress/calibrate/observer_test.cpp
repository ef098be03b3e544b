#include "compress/calibrate/observer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace autoglm::calibrate {
namespace {

const format::QuantArgs kInt8{.num_bits = 8, .strategy = format::Strategy::kTensor};

Observed observed(const std::vector<float>& values) {
  Observed out;
  out.min = *std::min_element(values.begin(), values.end());
  out.max = *std::max_element(values.begin(), values.end());
  out.average_min = out.min / 2;
  out.average_max = out.max / 2;
  out.histogram.add(values);
  return out;
}

std::vector<float> bell(size_t count, float outlier) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  values[0] = -outlier;
  return values;
}

double error_of(const std::vector<float>& values, double scale) {
  double sum = 0;
  for (const float value : values) {
    const double q = std::min(127.0, std::max(-128.0, std::nearbyint(value / scale)));
    sum += std::pow(value - q * scale, 2);
  }
  return sum;
}

TEST(Observer, NamesAreTheirOwn) {
  for (const std::string& name : observer_names()) EXPECT_EQ(to_string(parse_observer(name).value()), name);
  EXPECT_THAT(parse_observer("entropie").status().message(), ::testing::HasSubstr("entropy"));
}

TEST(Observer, MinMaxClipsNothingAndMovingAverageFollowsTheUsualRange) {
  const Observed seen = observed(bell(4000, 50));
  EXPECT_DOUBLE_EQ(static_scale(seen, Observer::kMinMax, kInt8), 50.0 / 127);
  EXPECT_DOUBLE_EQ(static_scale(seen, Observer::kMovingAverage, kInt8), 25.0 / 127);
}

TEST(Observer, PercentileKeepsAllButOneInTenThousand) {
  const std::vector<float> values = bell(100000, 50);
  const double range = 127 * static_scale(observed(values), Observer::kPercentile, kInt8);
  const auto clipped = std::count_if(values.begin(), values.end(), [&](float x) { return std::fabs(x) > range; });
  EXPECT_LE(clipped, 10);
  EXPECT_LT(range, 5);
}

TEST(Observer, MseFindsTheLeastSquaredError) {
  for (const float outlier : {4.0F, 20.0F, 300.0F}) {
    const std::vector<float> values = bell(20000, outlier);
    const double found = error_of(values, static_scale(observed(values), Observer::kMse, kInt8));
    double best = found;
    for (double range = 2; range <= outlier; range *= 1.01) best = std::min(best, error_of(values, range / 127));
    EXPECT_LT(found, 1.05 * best) << outlier;
  }
}

TEST(Observer, EntropyLeavesOutWhatIsFarAndRare) {
  const double range = 127 * static_scale(observed(bell(200000, 30)), Observer::kEntropy, kInt8);
  EXPECT_GT(range, 2);
  EXPECT_LT(range, 15);
}

TEST(Observer, EveryScaleIsAboveZero) {
  for (const std::string& name : observer_names()) {
    const Observer observer = parse_observer(name).value();
    EXPECT_GT(static_scale(observed({0, 0}), observer, kInt8), 0) << name;
    EXPECT_GT(static_scale(Observed(), observer, kInt8), 0) << name;
    EXPECT_GT(static_scale(observed({1e-30F}), observer, kInt8), 0) << name;
    EXPECT_TRUE(std::isfinite(static_scale(observed({3e38F}), observer, kInt8))) << name;
  }
}

}  // namespace
}  // namespace autoglm::calibrate
