#pragma once
/// Work beside the caller's: one task at a time, in order.
#include <functional>
#include <future>

#include "core/base/status.h"

namespace autoglm {

/// Not thread-safe. Waits for its task when it is destroyed.
class Background {
 public:
  Background() = default;
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;
  ~Background();

  /// Waits for the task before; starts `task` on a thread of its own, unless that one failed: then returns its failure.
  /// Where the system has no more threads, runs it here and returns how it ended.
  /// What a task throws comes back as an exception of the next `start` or `wait`.
  Status start(std::function<Status()> task);

  /// How the last task ended; ok when there is none.
  Status wait();

 private:
  std::future<Status> running_;
};

}  // namespace autoglm
