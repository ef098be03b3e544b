#include "core/base/parallel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <thread>
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

TEST(TryParallelFor, ReturnsTheFirstFailure) {
  const auto part = [](int64_t begin, int64_t) { return bad_input(std::to_string(begin)); };
  EXPECT_EQ(try_parallel_for(100, part).message(), "0");
  EXPECT_TRUE(try_parallel_for(100, [](int64_t, int64_t) { return ok_status(); }).ok());
  if (std::thread::hardware_concurrency() < 2) return;
  const auto all_but_the_first = [&](int64_t begin, int64_t end) {
    return begin == 0 ? ok_status() : part(begin, end);
  };
  EXPECT_EQ(try_parallel_for(100, all_but_the_first).message(),
            std::to_string(100 / std::min(100U, std::thread::hardware_concurrency())));
}

TEST(ParallelFor, ThrowsAgainWhatTheFirstPartThrew) {
  const auto throws = [](int64_t begin, int64_t) { throw std::runtime_error(std::to_string(begin)); };
  for (int i = 0; i < 20; ++i) {
    try {
      parallel_for(100, throws);
      ADD_FAILURE();
    } catch (const std::runtime_error& e) {
      EXPECT_STREQ(e.what(), "0");
    }
  }
}

}  // namespace
}  // namespace autoglm
