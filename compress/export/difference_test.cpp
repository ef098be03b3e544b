#include "compress/export/difference.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace autoglm::exports {
namespace {

TEST(Difference, FindsTheLargestWhereverItIs) {
  for (const size_t count : {1, 15, 16, 17, 100}) {
    for (size_t at = 0; at < count; ++at) {
      std::vector<float> found(count, 1), expected(count, 1);
      EXPECT_EQ(difference_of(found, expected).share(), 0);
      found[at] = -3;
      const Difference difference = difference_of(found, expected);
      EXPECT_EQ(difference.most, 4);
      EXPECT_EQ(difference.largest, 1);
      EXPECT_EQ(difference.share(), 4);
      EXPECT_TRUE(difference.finite);
      for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
        found[at] = bad;
        EXPECT_FALSE(difference_of(found, expected).finite) << count << ", " << at;
        EXPECT_FALSE(difference_of(expected, found).finite);
        EXPECT_FALSE(difference_of(found, found).finite);
      }
    }
  }
  EXPECT_EQ(difference_of({}, {}).share(), 0);
  const std::vector<float> zeros(3), garbage = {0, 1, 0};
  EXPECT_EQ(difference_of(zeros, zeros).share(), 0);
  EXPECT_EQ(difference_of(garbage, zeros).share(), std::numeric_limits<double>::infinity());
}

TEST(Difference, AddsUp) {
  Difference sum{1, 8, true};
  sum += {2, 4, true};
  EXPECT_EQ(sum.share(), 0.25);
  sum += {0, 0, false};
  EXPECT_FALSE(sum.finite);
}

}  // namespace
}  // namespace autoglm::exports
