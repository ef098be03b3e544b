#include "core/base/parallel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <new>
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

TEST(TryParallelFor, ExceptionsAreFailures) {
  const auto out_of_memory = [](int64_t, int64_t) -> Status { throw std::bad_alloc(); };
  EXPECT_EQ(try_parallel_for(100, out_of_memory).code(), StatusCode::kResourceExhausted);
  const auto unforeseen = [](int64_t, int64_t) -> Status { throw std::runtime_error("unforeseen"); };
  EXPECT_EQ(try_parallel_for(100, unforeseen).message(), "unforeseen");
}

}  // namespace
}  // namespace autoglm
