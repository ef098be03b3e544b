#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/cancel.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/base/share.h"
#include "core/base/status.h"
#include "core/base/suggest.h"

namespace autoglm {
namespace {

Result<int> half(int n) {
  if (n % 2 != 0) return invalid_argument("odd");
  return n / 2;
}

Result<int> quarter(int n) {
  AUTOGLM_ASSIGN_OR_RETURN(const int h, half(n));
  return half(h);
}

TEST(Status, CarriesCodeMessageAndContext) {
  const Status s = bad_input("header is 9 bytes long").with_context("a.safetensors");
  EXPECT_FALSE(s.ok());
  EXPECT_EQ(s.code(), StatusCode::kBadInput);
  EXPECT_EQ(s.message(), "a.safetensors: header is 9 bytes long");
  EXPECT_TRUE(ok_status().with_context("x").ok());
}

TEST(Status, StaysOneLine) {
  EXPECT_EQ(bad_input("no tensor 'a\nb\x1b[2J'").with_context("x\ty").message(), "x\\x09y: no tensor 'a\\nb\\x1b[2J'");
}

TEST(Result, PropagatesTheFirstFailure) {
  EXPECT_EQ(*quarter(12), 3);
  EXPECT_EQ(quarter(6).status().message(), "odd");
  EXPECT_TRUE(quarter(12).status().ok());
}

TEST(Memory, ParsesAndPrintsSizes) {
  EXPECT_EQ(*parse_bytes("4G"), 4'000'000'000);
  EXPECT_EQ(*parse_bytes("512MB"), 512'000'000);
  EXPECT_EQ(*parse_bytes("1.5GiB"), 1'610'612'736);
  EXPECT_EQ(*parse_bytes("4096"), 4096);
  EXPECT_EQ(*parse_bytes("3 MB"), 3'000'000);
  for (const char* bad : {"", "G", "-1G", "4X", "1e30G", "4GGG", "nan"}) EXPECT_FALSE(parse_bytes(bad).ok()) << bad;
  EXPECT_EQ(format_bytes(96), "96 B");
  EXPECT_EQ(format_bytes(1'234'567'890), "1.23 GB");
  EXPECT_EQ(format_bytes(16'813'920), "16.8 MB");
  EXPECT_EQ(format_bytes(999'999), "1.00 MB");
}

TEST(Memory, SeesAnAllocation) {
  const int64_t before = current_rss_bytes();
  std::vector<char> block(64 << 20);
  std::memset(block.data(), 1, block.size());
  EXPECT_GE(current_rss_bytes() - before, 60 << 20);
  EXPECT_GE(peak_rss_bytes(), current_rss_bytes() - (1 << 20));
  EXPECT_EQ(block[12345], 1);
}

TEST(Progress, FormatsDurations) {
  EXPECT_EQ(format_duration(3.6), "4 s");
  EXPECT_EQ(format_duration(130), "2 min 10 s");
  EXPECT_EQ(format_duration(3900), "1 h 5 min");
}

TEST(Progress, StaysSilentForShortWork) {
  testing::internal::CaptureStderr();
  {
    Progress progress("short", 2);
    progress.update(1);
    progress.update(2);
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

using namespace std::chrono_literals;

/// What a Progress over `total` units prints when `reports` come at those times after its start.
std::string printed(bool terminal, int64_t total,
                    const std::vector<std::pair<std::chrono::milliseconds, int64_t>>& reports) {
  static ProgressOutput::Clock::time_point now;
  char* text = nullptr;
  size_t size = 0;
  std::FILE* stream = open_memstream(&text, &size);
  {
    const ProgressOutput output{.stream = stream, .terminal = terminal, .now = [] { return now; }};
    const auto start = now;
    Progress progress("working", total, output);
    for (const auto& [after, done] : reports) {
      now = start + after;
      progress.update(done, done == 0 ? "" : fmt::format("part {}", done));
    }
  }
  std::fclose(stream);
  std::string result(text, size);
  std::free(text);
  return result;
}

TEST(Progress, PrintsPlainLinesOffATerminal) {
  EXPECT_EQ(printed(false, 10, {{1900ms, 1}, {4s, 2}, {5s, 2}, {9900ms, 4}, {10s, 5}, {15s, 9}, {15100ms, 10}}),
            "working: 2/10 part 2, 20 s left\n"
            "working: 5/10 part 5, 10 s left\n"
            "working: 9/10 part 9, 2 s left\n"
            "working: 10/10 part 10, took 15 s\n");
  EXPECT_EQ(printed(false, 10, {{6s, 0}}), "working: 0/10\n");  // nothing done: no guess of the time left
  EXPECT_EQ(printed(false, 10, {{1s, 5}, {1900ms, 10}}), "");
}

TEST(Progress, RewritesOneLineOnATerminal) {
  EXPECT_EQ(printed(true, 1000, {{2s, 1}, {2100ms, 2}, {2200ms, 500}, {4s, 1000}}),
            "\r\x1b[Kworking: 1/1000 part 1, 33 min 18 s left"
            "\r\x1b[Kworking: 500/1000 part 500, 2 s left"
            "\r\x1b[Kworking: 1000/1000 part 1000, took 4 s\n");
}

TEST(Progress, PrintsNothingOnceDisabled) {
  Progress::set_enabled(false);
  EXPECT_EQ(printed(false, 10, {{6s, 1}}), "");
  Progress::set_enabled(true);
}

TEST(Cancel, SignalCancelsTheGlobalToken) {
  EXPECT_EXIT(
      {
        install_signal_handlers();
        std::raise(SIGINT);
        std::exit(CancelToken::global().check().code() == StatusCode::kCancelled ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

TEST(Suggest, FindsTheMeantWord) {
  const std::vector<std::string> known = {"gptq", "rtn", "int4", "int8"};
  EXPECT_EQ(nearest("gtpq", known), "gptq");
  EXPECT_EQ(nearest("INT4", known), "int4");
  EXPECT_EQ(nearest("xyzzy", known), "");
  EXPECT_EQ(nearest(std::string(10'000, 'a'), known), "");
  EXPECT_EQ(unknown_word("method", "gtpq", known),
            "unknown method 'gtpq'; did you mean 'gptq'? Known: gptq, rtn, int4, int8");
  EXPECT_EQ(unknown_word("method", "adamw", known), "unknown method 'adamw'. Known: gptq, rtn, int4, int8");
}

// In a process of its own, which never sets logging up.
TEST(LogDeathTest, WarnsOnStderrWithoutSetup) {
  EXPECT_EXIT(
      {
        testing::internal::CaptureStdout();
        std::vector<std::thread> threads;
        for (int i = 0; i < 4; ++i) threads.emplace_back([] { warn("nobody set me up"); });
        for (std::thread& thread : threads) thread.join();
        std::exit(testing::internal::GetCapturedStdout().empty() ? 0 : 1);
      },
      testing::ExitedWithCode(0), "^warning: nobody set me up\n$");
}

TEST(Log, RemembersEachWarningOnce) {
  testing::internal::CaptureStderr();
  setup_logging(Verbosity::kQuiet);
  warn("something is off");
  warn("something is off");
  EXPECT_EQ(warnings(), std::vector<std::string>{"something is off"});
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(Share, IsReadAsPeopleWriteIt) {
  EXPECT_DOUBLE_EQ(*parse_share("3%"), 0.03);
  EXPECT_DOUBLE_EQ(*parse_share("0.5 %"), 0.005);
  EXPECT_DOUBLE_EQ(*parse_share("0.03"), 0.03);
  EXPECT_DOUBLE_EQ(*parse_share("0"), 0);
  EXPECT_DOUBLE_EQ(*parse_share("100%"), 1);
  for (const char* bad : {"", "%", "3", "-1%", "101%", "nan", "inf%", "3%%", "3 pct", "abc", "1e400"}) {
    EXPECT_EQ(parse_share(bad).status().code(), StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace autoglm
