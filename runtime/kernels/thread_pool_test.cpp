#include "runtime/kernels/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace autoglm::kernels {
namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.threads(), threads);
    for (const int64_t tasks : {0, 1, 2, 3, 7, 8, 100, 1001}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
      pool.parallel_for(tasks, [&](int64_t begin, int64_t end, int thread) {
        EXPECT_TRUE(begin < end && thread >= 0 && thread < threads);
        for (int64_t i = begin; i < end; ++i) ++runs[static_cast<size_t>(i)];
      });
      EXPECT_TRUE(std::all_of(runs.begin(), runs.end(), [](const auto& count) { return count == 1; }));
    }
  }
}

TEST(ThreadPool, TheOthersDoWhatALateThreadHasNotComeTo) {
  ThreadPool pool(3);
  std::atomic<int64_t> done = 0;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  pool.parallel_for(300, [&](int64_t begin, int64_t end, int) {
    while (begin == 0 && done < 300 - end && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    EXPECT_TRUE(begin != 0 || done == 300 - end);
    done += end - begin;
  });
  EXPECT_EQ(done, 300);
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
