#include "core/base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cmath>

namespace autoglm {
namespace {

std::atomic<bool> enabled{true};
constexpr double kSilentSeconds = 2.0;  // shorter work needs no progress
constexpr double kTerminalIntervalSeconds = 0.2;
constexpr double kPlainIntervalSeconds = 5.0;  // log files should stay short

double seconds_between(std::chrono::steady_clock::time_point a, std::chrono::steady_clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

}  // namespace

ProgressOutput ProgressOutput::standard() {
  static const bool terminal = isatty(STDERR_FILENO) == 1;
  return {.stream = stderr, .terminal = terminal, .now = &Clock::now};
}

Progress::Progress(std::string what, int64_t total, const ProgressOutput& output)
    : what_(std::move(what)), total_(total), output_(output) {}

Progress::~Progress() {
  if (line_open_) std::fputc('\n', output_.stream);
}

void Progress::set_enabled(bool on) { enabled = on; }
bool Progress::is_enabled() { return enabled; }

void Progress::update(int64_t done, const std::string& detail) {
  if (!enabled) return;
  const auto now = output_.now();
  const double elapsed = seconds_between(start_, now);
  if (elapsed < kSilentSeconds) return;
  const double interval = output_.terminal ? kTerminalIntervalSeconds : kPlainIntervalSeconds;
  if (seconds_between(last_print_, now) < interval && done < total_) return;
  last_print_ = now;

  std::string line = fmt::format("{}: {}/{}", what_, done, total_);
  if (!detail.empty()) line += " " + detail;
  if (done > 0 && done < total_) {
    const double left = elapsed * static_cast<double>(total_ - done) / static_cast<double>(done);
    line += fmt::format(", {} left", format_duration(left));
  } else if (done >= total_) {
    line += fmt::format(", took {}", format_duration(elapsed));
  }
  print(line);
}

void Progress::print(const std::string& line) {
  if (output_.terminal) {
    std::fprintf(output_.stream, "\r\033[K%s", line.c_str());
    std::fflush(output_.stream);
    line_open_ = true;
  } else {
    std::fprintf(output_.stream, "%s\n", line.c_str());
  }
}

std::string format_duration(double seconds) {
  const auto whole = std::llround(seconds);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

}  // namespace autoglm
