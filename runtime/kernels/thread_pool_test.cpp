#include "runtime/kernels/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

namespace autoglm::kernels {
namespace {

TEST(ThreadPool, RunsEveryTaskOnceInTheSameSplit) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.threads(), threads);
    for (const int64_t tasks : {0, 1, 2, 3, 7, 8, 100, 1001}) {
      std::vector<int> thread_of(static_cast<size_t>(tasks), -1), again = thread_of;
      std::atomic<int> count = 0;
      const auto note = [&](std::vector<int>& into) {
        pool.parallel_for(tasks, [&](int64_t begin, int64_t end, int thread) {
          for (int64_t i = begin; i < end; ++i) {
            into[static_cast<size_t>(i)] = thread;
            ++count;
          }
        });
      };
      note(thread_of);
      note(again);
      EXPECT_EQ(count, 2 * tasks);
      EXPECT_EQ(thread_of, again);
      EXPECT_TRUE(std::is_sorted(thread_of.begin(), thread_of.end()));
      if (tasks >= threads) {
        EXPECT_EQ(thread_of.back(), threads - 1);
      }
    }
  }
}

TEST(ThreadPool, SeesWhatWasWrittenBeforeAndShowsWhatTasksWrote) {
  ThreadPool pool(4);
  std::vector<int64_t> values(64, 0);
  for (int round = 0; round < 300; ++round) {
    pool.parallel_for(64, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) ++values[static_cast<size_t>(63 - i)];
    });
  }
  EXPECT_EQ(values, std::vector<int64_t>(64, 300));
}

TEST(ThreadPool, WakesWorkersThatFellAsleep) {
  ThreadPool pool(2);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int> count = 0;
    pool.parallel_for(2, [&](int64_t begin, int64_t end, int) { count += static_cast<int>(end - begin); });
    EXPECT_EQ(count, 2);
  }
}

TEST(ThreadPool, TreatsNonsenseAsOneThread) {
  EXPECT_EQ(ThreadPool(0).threads(), 1);
  EXPECT_EQ(ThreadPool(-3).threads(), 1);
}

}  // namespace
}  // namespace autoglm::kernels
