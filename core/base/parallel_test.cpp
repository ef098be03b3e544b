#include "core/base/parallel.h"

#include <gtest/gtest.h>

#include <vector>

namespace autoglm {
namespace {

TEST(ParallelFor, CoversEveryIndexOnce) {
  for (const int64_t count : {0, 1, 2, 3, 1000}) {
    std::vector<int> visits(static_cast<size_t>(count));
    parallel_for(count, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
    });
    EXPECT_EQ(visits, std::vector<int>(static_cast<size_t>(count), 1));
  }
}

}  // namespace
}  // namespace autoglm
