#include "api/child_process.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
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

TEST(RunChild, KillsAChildThatDoesNotEnd) {
  CancelToken cancel;
  std::thread stopper([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    cancel.cancel();
  });
  const auto start = std::chrono::steady_clock::now();
  const auto result = run_child("sh", {"-c", "trap '' INT; exec sleep 30"}, cancel);
  stopper.join();
  EXPECT_EQ(result.status().code(), StatusCode::kCancelled);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

TEST(RunChild, SaysThatAChildWasKilled) {
  CancelToken cancel;
  const auto result = run_child("sh", {"-c", "kill -9 $$"}, cancel);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->exit_code, kSignalled + SIGKILL);
}

/// Whether the process is there and no zombie.
bool is_running(const std::string& pid) {
  std::ifstream file("/proc/" + pid + "/stat");
  std::string id, name, state;
  return static_cast<bool>(file >> id >> name >> state) && state != "Z";
}

TEST(RunChild, TheChildDoesNotOutliveItsParent) {
  const std::string name = testing::TempDir() + "/child-" + std::to_string(::getpid());
  const pid_t parent = ::fork();
  if (parent == 0) {
    CancelToken cancel;
    const auto unused = run_child("sh", {"-c", "echo $$ > " + name + "; exec sleep 60"}, cancel);
    ::_exit(unused.ok() ? 0 : 1);
  }
  ASSERT_GT(parent, 0);
  std::string child;
  while (child.empty()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    std::ifstream(name) >> child;
  }
  EXPECT_TRUE(is_running(child));
  ::kill(parent, SIGKILL);
  ::waitpid(parent, nullptr, 0);
  const auto start = std::chrono::steady_clock::now();
  while (is_running(child) && std::chrono::steady_clock::now() - start < std::chrono::seconds(10)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_FALSE(is_running(child));
  std::filesystem::remove(name);
}

}  // namespace
}  // namespace autoglm::api
