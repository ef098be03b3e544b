#include "api/child_process.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace autoglm::api {
namespace {

TEST(RunChild, CollectsOutputErrorsAndExitCode) {
  CancelToken cancel;
  testing::internal::CaptureStderr();
  const auto result = run_child("sh", {"-c", "echo out; echo note >&2; echo problem >&2; exit 4"}, cancel);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "note\n");
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->out, "out\n");
  EXPECT_EQ(result->error, "problem");
  EXPECT_EQ(result->exit_code, 4);
}

TEST(RunChild, SaysWhatCannotBeStarted) {
  CancelToken cancel;
  const auto result = run_child("no-such-program-here", {}, cancel);
  EXPECT_EQ(result.status().code(), StatusCode::kResourceExhausted);
  EXPECT_NE(result.status().message().find("no-such-program-here"), std::string::npos);
}

TEST(RunChild, LargeOutputDoesNotBlock) {
  CancelToken cancel;
  const auto result = run_child("sh", {"-c", "head -c 3000000 /dev/zero"}, cancel);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->out.size(), 3'000'000u);
}

TEST(RunChild, CancellationInterruptsTheChild) {
  CancelToken cancel;
  std::thread stopper([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    cancel.cancel();
  });
  const auto start = std::chrono::steady_clock::now();
  const auto result = run_child("sleep", {"30"}, cancel);
  stopper.join();
  EXPECT_EQ(result.status().code(), StatusCode::kCancelled);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

}  // namespace
}  // namespace autoglm::api
