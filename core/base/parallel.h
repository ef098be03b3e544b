#pragma once
/// Work split over threads, for rooms without LibTorch.
#include <cstdint>
#include <functional>
#include <limits>
#include <mutex>
#include <utility>

#include "core/base/status.h"

namespace autoglm {

/// Calls `work(begin, end)` for consecutive parts of [0, count), each on a thread of its own, as many as this process
/// has processors; the caller's is one of them. Returns when all have ended; what a part throws is thrown again then,
/// of several the first part's. The parts must not depend on each other.
void parallel_for(int64_t count, const std::function<void(int64_t begin, int64_t end)>& work);

/// The same with work that can fail: returns the failure of the first part that has one.
Status try_parallel_for(int64_t count, const std::function<Status(int64_t begin, int64_t end)>& work);

/// Of what went wrong in parts of a work, what did in the first of them; `Failure()` where nothing did. `add` is
/// thread-safe.
template <typename Failure>
class FirstFailure {
 public:
  void add(int64_t part, Failure failure) {
    const std::lock_guard lock(mutex_);
    if (part < first_) first_ = part, failure_ = std::move(failure);
  }
  /// Once all parts have ended.
  const Failure& get() const { return failure_; }

 private:
  std::mutex mutex_;
  int64_t first_ = std::numeric_limits<int64_t>::max();
  Failure failure_{};
};

}  // namespace autoglm
