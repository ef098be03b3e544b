#include "compress/search/size_search.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace autoglm::search {
namespace {

constexpr double kCloseEnough = 1.02;
constexpr double kApart = 1.004;  // a size nearer to one that was tried tells nothing new

}  // namespace

SizeSearch::SizeSearch(int64_t smallest, int64_t largest, int64_t first, std::function<int64_t(double)> size_for)
    : smallest_(smallest),
      largest_(largest),
      first_(std::clamp(first, smallest, largest)),
      size_for_(std::move(size_for)) {}

std::optional<int64_t> SizeSearch::next() {
  if (attempts_ == kMostAttempts || failed_ == largest_ || held_ == smallest_) return std::nullopt;
  if (attempts_ == 0) return first_;
  const auto low = static_cast<double>(failed_.value_or(smallest_)),
             high = static_cast<double>(held_.value_or(largest_));
  if (failed_ && held_ && high <= kCloseEnough * low) return std::nullopt;
  if (target_ > 0 && size_for_) {
    const auto guess = static_cast<double>(size_for_(target_));
    const bool is_new = (!failed_ || guess > kApart * low) && (!held_ || guess < high / kApart);
    if (is_new) return std::clamp(static_cast<int64_t>(guess), smallest_, largest_);
  }
  if (!failed_ && high <= kCloseEnough * low) return smallest_;
  if (!held_ && high <= kCloseEnough * low) return largest_;
  return static_cast<int64_t>(std::sqrt(low * high));
}

void SizeSearch::tell(int64_t size, bool holds, double target) {
  ++attempts_;
  target_ = target;
  if (holds) {
    held_ = std::min(size, held_.value_or(size));
  } else {
    failed_ = std::max(size, failed_.value_or(size));
  }
}

}  // namespace autoglm::search
