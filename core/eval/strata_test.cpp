#include "core/eval/strata.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/eval/random.h"

namespace autoglm::eval {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<int64_t> counts(const std::vector<size_t>& turns, size_t strata) {
  std::vector<int64_t> out(strata);
  for (const size_t i : turns) ++out[i];
  return out;
}

TEST(Spread, ByHand) {
  // Quotients: 9 4 1 for the first sample of each; then 9/1, 4/1 and 9/2, 9/3, ...
  EXPECT_THAT(spread({{9, 10}, {4, 10}, {1, 10}}, 8), ElementsAre(0, 1, 2, 0, 0, 1, 0, 0));
  EXPECT_THAT(spread({{1, 2}, {1, 2}}, 10), ElementsAre(0, 1, 0, 1));
  EXPECT_THAT(spread({{1, 0}, {2, 1}}, 3), ElementsAre(1));
  EXPECT_THAT(spread({}, 3), IsEmpty());
  EXPECT_THAT(spread({{1, 1}}, 0), IsEmpty());
}

TEST(Spread, SumsExactlyAndServesEveryStratumOnce) {
  SplitMix64 random(3);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<Stratum> strata(1 + random.below(12));
    int64_t available = 0;
    for (Stratum& stratum : strata) {
      stratum.samples = static_cast<int64_t>(random.below(40));
      stratum.weight = std::sqrt(static_cast<double>(1 + random.below(1'000'000)));
      available += stratum.samples;
    }
    const auto count = static_cast<int64_t>(random.below(200));
    const auto turns = spread(strata, count);
    ASSERT_EQ(static_cast<int64_t>(turns.size()), std::min(count, available));
    const auto got = counts(turns, strata.size());
    for (size_t i = 0; i < strata.size(); ++i) {
      EXPECT_LE(got[i], strata[i].samples);
      EXPECT_TRUE(got[i] >= 1 || strata[i].samples == 0 || count < static_cast<int64_t>(strata.size()));
    }
    const auto fewer = spread(strata, count / 2);
    EXPECT_TRUE(std::equal(fewer.begin(), fewer.end(), turns.begin()));  // the beginning of more
  }
}

TEST(Spread, SharesComeCloseToTheWeights) {
  const std::vector<Stratum> strata = {{60, 100'000}, {30, 100'000}, {10, 100'000}};
  EXPECT_THAT(counts(spread(strata, 10'000), 3), ElementsAre(6000, 3000, 1000));
}

TEST(Lengths, PowersOfTwoAndTheFullOnes) {
  EXPECT_EQ(length_range(512, 512), "512");
  EXPECT_EQ(length_range(511, 512), "256-511");
  EXPECT_EQ(length_range(16, 512), "16-31");
  EXPECT_EQ(length_range(70, 100), "64-99");
  EXPECT_EQ(length_range(64, 65), "64");
  for (int64_t tokens = 3; tokens <= 100; ++tokens) {
    EXPECT_EQ(length_class(tokens, 100) == length_class(tokens - 1, 100),
              length_range(tokens, 100) == length_range(tokens - 1, 100));
    EXPECT_GE(length_class(tokens, 100), length_class(tokens - 1, 100));
  }
}

}  // namespace
}  // namespace autoglm::eval
