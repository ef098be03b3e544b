#pragma once
/// CancelToken: asks long work to stop. Set from any thread or from a signal handler.
#include <autoglm/status.h>

#include <atomic>

namespace autoglm {

/// Long loops call `check()` at least every few hundred milliseconds and return its Status.
class CancelToken {
 public:
  void cancel() noexcept { cancelled_.store(true, std::memory_order_relaxed); }
  bool is_cancelled() const noexcept { return cancelled_.load(std::memory_order_relaxed); }
  Status check() const { return is_cancelled() ? cancelled() : ok_status(); }

  /// The process-wide token, cancelled by Ctrl-C once `install_signal_handlers()` has been called.
  static CancelToken& global();

 private:
  static_assert(std::atomic<bool>::is_always_lock_free, "cancel() must be safe in a signal handler");
  std::atomic<bool> cancelled_{false};
};

/// SIGINT, SIGTERM and SIGHUP (unless it is ignored: nohup) cancel the global token; a second one ends the process at
/// once with exit code 130. SIGXFSZ is ignored, so that a file over the process's limit is a failed write.
void install_signal_handlers();

}  // namespace autoglm
