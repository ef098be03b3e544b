#pragma once
/// Progress of anything that may take over two seconds, with the time left.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

namespace autoglm {

/// Where progress goes and what time it is: stderr and the steady clock, save in tests.
struct ProgressOutput {
  using Clock = std::chrono::steady_clock;
  std::FILE* stream;
  bool terminal;  ///< whether `stream` is one
  Clock::time_point (*now)();

  static ProgressOutput standard();
};

/// Reports to stderr: one rewritten line on a terminal, a plain line every few seconds elsewhere, nothing for work that
/// ends within two seconds, nothing at all once `set_enabled(false)` was called (--quiet, --json to a terminal).
/// Not thread-safe: one thread reports. Ends its line when destroyed.
class Progress {
 public:
  /// `what` names the work ("quantizing"); `total` is in any unit of work (blocks, bytes, tokens).
  Progress(std::string what, int64_t total, const ProgressOutput& output = ProgressOutput::standard());
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` units of `total` are finished; `detail` names the piece under way ("layer 3").
  void update(int64_t done, const std::string& detail = "");

  static void set_enabled(bool enabled);
  static bool is_enabled();

 private:
  void print(const std::string& line);

  std::string what_;
  int64_t total_;
  ProgressOutput output_;
  ProgressOutput::Clock::time_point start_ = output_.now();
  ProgressOutput::Clock::time_point last_print_ = start_;
  bool line_open_ = false;
};

/// "4 s", "2 min 10 s", "1 h 5 min".
std::string format_duration(double seconds);

}  // namespace autoglm
