#include "core/base/background.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace autoglm {
namespace {

TEST(Background, RunsTasksInOrderOnAnotherThread) {
  std::vector<int> order;
  std::thread::id ran;
  Background background;
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(background
                    .start([&, i] {
                      order.push_back(i);
                      ran = std::this_thread::get_id();
                      return ok_status();
                    })
                    .ok());
  }
  ASSERT_TRUE(background.wait().ok());
  ASSERT_EQ(order.size(), 20u);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
  EXPECT_NE(ran, std::this_thread::get_id());
}

TEST(Background, RunsBesideTheCaller) {
  std::atomic<bool> go{false};
  Background background;
  ASSERT_TRUE(background
                  .start([&] {
                    while (!go) std::this_thread::yield();  // ends only if the caller goes on
                    return ok_status();
                  })
                  .ok());
  go = true;
  EXPECT_TRUE(background.wait().ok());
}

TEST(Background, AFailureEndsTheRow) {
  bool ran = false;
  Background background;
  ASSERT_TRUE(background.start([] { return resource_exhausted("disk full"); }).ok());
  const Status status = background.start([&] {
    ran = true;
    return ok_status();
  });
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(background.wait().ok());
  EXPECT_FALSE(ran);
}

TEST(Background, WhatATaskThrowsReachesTheCaller) {
  Background background;
  ASSERT_TRUE(background.start([]() -> Status { throw std::runtime_error("lost"); }).ok());
  EXPECT_THROW((void)background.wait(), std::runtime_error);
  EXPECT_TRUE(background.wait().ok());
}

TEST(Background, WaitsWhenItEnds) {
  std::atomic<bool> ended{false};
  {
    Background background;
    ASSERT_TRUE(background
                    .start([&] {
                      std::this_thread::sleep_for(std::chrono::milliseconds(20));
                      ended = true;
                      return ok_status();
                    })
                    .ok());
  }
  EXPECT_TRUE(ended);
}

}  // namespace
}  // namespace autoglm
