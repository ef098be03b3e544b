#include "compress/search/size_search.h"

#include <gtest/gtest.h>

#include <cmath>

namespace autoglm::search {
namespace {

/// Loss of a size, and of the size that a loss belongs to: halves with every 100 bytes, from 1 at 1000.
double loss_of(int64_t size) { return std::exp2(-static_cast<double>(size - 1000) / 100); }
int64_t size_of(double loss) { return 1000 + static_cast<int64_t>(std::ceil(-100 * std::log2(loss))); }

struct Found {
  std::optional<int64_t> size;
  int attempts = 0;
};

/// Searches where what is measured is `factor` times the estimate.
Found search(double allowed, double factor, bool informed, int64_t smallest = 1000, int64_t largest = 8000) {
  SizeSearch sizes(smallest, largest, 2000, size_of);
  Found out;
  while (const auto size = sizes.next()) {
    EXPECT_GE(*size, smallest);
    EXPECT_LE(*size, largest);
    const double measured = factor * loss_of(*size);
    sizes.tell(*size, measured <= allowed, informed ? loss_of(*size) * allowed / measured : 0);
    ++out.attempts;
  }
  out.size = sizes.smallest_that_held();
  return out;
}

TEST(SizeSearch, FindsTheSmallestSizeWithinTwoPercent) {
  for (const double allowed : {0.5, 0.1, 0.01, 1e-4, 1e-9}) {
    for (const double factor : {0.3, 1.0, 2.5}) {
      for (const bool informed : {true, false}) {
        const Found found = search(allowed, factor, informed);
        ASSERT_TRUE(found.size) << allowed << " " << factor;
        EXPECT_LE(factor * loss_of(*found.size), allowed);
        const auto best = std::max<double>(1000, static_cast<double>(size_of(allowed / factor)));
        EXPECT_LE(static_cast<double>(*found.size), best * (informed ? 1.021 : 1.06)) << allowed << " " << factor;
        EXPECT_LE(found.attempts, SizeSearch::kMostAttempts);
      }
    }
  }
}

TEST(SizeSearch, SaysWhenNothingHolds) {
  EXPECT_FALSE(search(1e-30, 1.0, true).size);
  EXPECT_FALSE(search(1e-30, 1.0, false).size);
}

TEST(SizeSearch, TakesTheSmallestWhereEverythingHolds) {
  EXPECT_EQ(search(100, 1.0, true).size, 1000);
  EXPECT_LE(*search(100, 1.0, false).size, 1020);
}

}  // namespace
}  // namespace autoglm::search
