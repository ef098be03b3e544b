#pragma once
/// Histogram: counts of values, gathered in one pass without knowing their range beforehand.
#include <cstdint>
#include <span>
#include <vector>

namespace autoglm::calibrate {

/// Equal bins of [-limit, limit). The limit is a power of two; where a value is beyond it, it doubles and pairs of bins
/// become one, so that histograms merge exactly, whatever the order of the values. Not thread-safe.
class Histogram {
 public:
  static constexpr int64_t kBins = 8192;

  /// Magnitudes below 2^-60 count as that, from 2^100 on as 2^100, NaN as the least value.
  void add(std::span<const float> values);
  void merge(const Histogram& other);

  bool empty() const { return total_ == 0; }
  int64_t total() const { return total_; }
  double limit() const;  ///< 0 when empty
  double width() const { return 2 * limit() / kBins; }
  /// Of each bin, from -limit upwards; empty when nothing was added.
  std::span<const int64_t> counts() const { return counts_; }

  /// The smallest bin edge that at least `share` (0..1) of the values lie below; 0 when empty.
  double quantile(double share) const;
  /// How many values have a magnitude in [i, i + 1) widths, i = 0 .. kBins / 2 - 1; empty when nothing was added.
  std::vector<int64_t> magnitudes() const;
  /// Counts in `bins` (a power of two up to kBins) bins of the same range: for storing.
  std::vector<int64_t> coarse(int64_t bins) const;

  /// Square root of the Jensen-Shannon divergence of the shares (Lin 1991, eq. 3.4; base 2): 0 for equal ones, 1 for no
  /// overlap; 0 when either is empty.
  friend double jensen_shannon_distance(Histogram a, Histogram b);

 private:
  void reach(int exponent);

  std::vector<int64_t> counts_;
  int exponent_ = 0;  ///< limit = 2^exponent
  int64_t total_ = 0;
};

}  // namespace autoglm::calibrate
