#pragma once
/// SizeSearch: which sizes to try so that few artifacts need to be written to find the smallest that keeps a contract.
#include <cstdint>
#include <functional>
#include <optional>

#include "core/base/status.h"

namespace autoglm::search {

/// Loss is taken to fall with size. Between the largest size that failed and the smallest that held the next one is
/// where the loss would be what is allowed, by the estimates and what was measured so far; where nothing can be said,
/// or that was tried, the geometric mean. Ends when the two are within 2 % or after kMostAttempts.
class SizeSearch {
 public:
  static constexpr int kMostAttempts = 8;

  /// `smallest` and `largest` bound what can be tried, both included; `first` is tried first.
  /// `size_for(loss)`: the smallest size whose estimated loss is at most that; may be empty.
  SizeSearch(int64_t smallest, int64_t largest, int64_t first, std::function<int64_t(double loss)> size_for);

  /// The size to try now; nothing: `smallest_that_held` is the answer, or there is none.
  std::optional<int64_t> next();

  /// What came of it. `target`: the estimated loss that would have kept the contract just so, as far as this attempt
  /// shows (estimated * allowed / measured); 0: it shows nothing.
  void tell(int64_t size, bool holds, double target);

  std::optional<int64_t> smallest_that_held() const { return held_; }

 private:
  int64_t smallest_, largest_, first_;
  std::function<int64_t(double)> size_for_;
  std::optional<int64_t> failed_, held_;  ///< the largest, the smallest
  double target_ = 0;
  int attempts_ = 0;
};

}  // namespace autoglm::search
