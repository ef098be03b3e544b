#include "runtime/engine/stop_filter.h"

#include <algorithm>
#include <utility>

namespace autoglm::engine {

StopFilter::StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase(stops_, "");
  for (const std::string& stop : stops_) longest_ = std::max(longest_, stop.size());
}

std::string StopFilter::push(std::string_view text) {
  if (stopped_) return {};
  held_ += text;
  size_t end = std::string::npos, begin = 0;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    const size_t ends = at + stop.size();
    if (end == std::string::npos || ends < end || (ends == end && at < begin)) end = ends, begin = at;
  }
  if (end != std::string::npos) {
    stopped_ = true;
    held_.resize(begin);
    return std::exchange(held_, {});
  }
  // The longest end of the text with which a stop string begins stays.
  size_t kept = longest_ == 0 ? 0 : std::min(longest_ - 1, held_.size());
  const auto may_begin = [&](const std::string& stop) {
    return stop.size() > kept && held_.compare(held_.size() - kept, kept, stop, 0, kept) == 0;
  };
  while (kept > 0 && std::none_of(stops_.begin(), stops_.end(), may_begin)) --kept;
  std::string certain = held_.substr(0, held_.size() - kept);
  held_.erase(0, held_.size() - kept);
  return certain;
}

std::string StopFilter::finish() { return std::exchange(held_, {}); }

}  // namespace autoglm::engine
