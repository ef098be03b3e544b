#include "compress/calibrate/observer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/base/suggest.h"

namespace autoglm::calibrate {
namespace {

constexpr double kKeptShare = 0.9999;    // by kPercentile
constexpr int64_t kRangesTried = 128;    // by kMse and kEntropy, down to a fraction of what was seen
constexpr double kSmallestRange = 0.02;  // that fraction

/// Magnitudes of values: how many lie in each bin of `width`.
struct Magnitudes {
  std::vector<int64_t> counts;
  double width = 0;
};

double kept_by_percentile(const Magnitudes& values) {
  const auto total = static_cast<double>(std::accumulate(values.counts.begin(), values.counts.end(), int64_t{0}));
  int64_t below = 0;
  for (size_t i = 0; i < values.counts.size(); ++i) {
    below += values.counts[i];
    if (static_cast<double>(below) >= kKeptShare * total) return static_cast<double>(i + 1) * values.width;
  }
  return static_cast<double>(values.counts.size()) * values.width;
}

/// Squared error of rounding all values to multiples of range / steps and clipping at `range`.
double squared_error(const Magnitudes& values, double range, int steps) {
  const double scale = range / steps;
  double error = 0;
  for (size_t i = 0; i < values.counts.size(); ++i) {
    if (values.counts[i] == 0) continue;
    const double value = (static_cast<double>(i) + 0.5) * values.width;
    const double rounded = std::min(std::nearbyint(value / scale), static_cast<double>(steps)) * scale;
    error += static_cast<double>(values.counts[i]) * (value - rounded) * (value - rounded);
  }
  return error;
}

/// KL(P || Q): P are the values with what lies beyond `range` put into the last bin, Q the same without it, in `steps`
/// levels that are spread evenly over the bins that held something.
double clipped_divergence(const Magnitudes& values, double range, int steps) {
  const double wanted = std::min(std::floor(range / values.width) + 1, static_cast<double>(values.counts.size()));
  const auto bins = static_cast<size_t>(wanted);
  if (bins < static_cast<size_t>(steps)) return std::numeric_limits<double>::infinity();
  std::vector<double> p(values.counts.begin(), values.counts.begin() + static_cast<std::ptrdiff_t>(bins)), q(bins, 0);
  for (size_t level = 0; level < static_cast<size_t>(steps); ++level) {
    const size_t first = level * bins / static_cast<size_t>(steps),
                 last = (level + 1) * bins / static_cast<size_t>(steps);
    double sum = 0;
    int64_t used = 0;
    for (size_t i = first; i < last; ++i) sum += p[i], used += p[i] > 0 ? 1 : 0;
    for (size_t i = first; i < last; ++i) q[i] = p[i] > 0 ? sum / static_cast<double>(used) : 0;
  }
  // What is clipped becomes the largest value that is not.
  const auto largest = std::find_if(p.rbegin(), p.rend(), [](double count) { return count > 0; });
  if (largest == p.rend()) return std::numeric_limits<double>::infinity();
  for (size_t i = bins; i < values.counts.size(); ++i) *largest += static_cast<double>(values.counts[i]);
  const double p_total = std::accumulate(p.begin(), p.end(), 0.0), q_total = std::accumulate(q.begin(), q.end(), 0.0);
  if (q_total == 0) return std::numeric_limits<double>::infinity();
  double divergence = 0;
  for (size_t i = 0; i < bins; ++i) {
    if (p[i] == 0) continue;
    if (q[i] == 0) return std::numeric_limits<double>::infinity();
    divergence += p[i] / p_total * std::log(p[i] / p_total / (q[i] / q_total));
  }
  return divergence;
}

/// Of ranges that shrink geometrically from `most`, the one with the least loss; the widest of equals.
template <typename Loss>
double best_range(double most, const Loss& loss) {
  double best = most, least = loss(most);
  for (int64_t i = 1; i < kRangesTried; ++i) {
    const double share = static_cast<double>(i) / static_cast<double>(kRangesTried - 1);
    const double range = most * std::pow(kSmallestRange, share);
    const double found = loss(range);
    if (found < least) least = found, best = range;
  }
  return best;
}

double kept_range(const Observed& seen, Observer observer, int steps) {
  const double most = std::max(seen.max, -seen.min);
  const Magnitudes values{seen.histogram.magnitudes(), seen.histogram.width()};
  if (seen.histogram.empty()) return most;
  switch (observer) {
    case Observer::kMinMax: break;
    case Observer::kMovingAverage: return std::max(seen.average_max, -seen.average_min);
    case Observer::kPercentile: return std::min(most, kept_by_percentile(values));
    case Observer::kMse: return best_range(most, [&](double range) { return squared_error(values, range, steps); });
    case Observer::kEntropy:
      return best_range(most, [&](double range) { return clipped_divergence(values, range, steps); });
  }
  return most;
}

}  // namespace

const std::vector<std::string>& observer_names() {
  static const std::vector<std::string> names = {"minmax", "moving-average", "percentile", "mse", "entropy"};
  return names;
}

std::string_view to_string(Observer observer) { return observer_names()[static_cast<size_t>(observer)]; }

Result<Observer> parse_observer(std::string_view name) {
  const auto found = std::find(observer_names().begin(), observer_names().end(), name);
  if (found == observer_names().end()) return invalid_argument(unknown_word("observer", name, observer_names()));
  return static_cast<Observer>(found - observer_names().begin());
}

double static_scale(const Observed& seen, Observer observer, const format::QuantArgs& args) {
  const double range = kept_range(seen, observer, args.q_max());
  return range > 0 ? range / args.q_max() : 1;
}

}  // namespace autoglm::calibrate
