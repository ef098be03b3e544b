#include "compress/calibrate/histogram.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/base/simd.h"

namespace autoglm::calibrate {
namespace {

constexpr int kLowestExponent = -60, kHighestExponent = 100;

/// The least e with |value| < 2^e.
int exponent_of(float magnitude) {
  if (magnitude == 0) return kLowestExponent;
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude = m 2^e, m in [0.5, 1)
  return std::clamp(exponent, kLowestExponent, kHighestExponent);
}

/// NaN left out. In lanes, which the compiler may keep in vector registers.
AUTOGLM_CLONES
float largest_magnitude(std::span<const float> values) {
  constexpr size_t kLanes = 8;
  std::array<float, kLanes> most{};
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t l = 0; l < kLanes; ++l) most[l] = std::max(most[l], std::fabs(values[i + l]));
  }
  for (; i < values.size(); ++i) most[0] = std::max(most[0], std::fabs(values[i]));
  return *std::max_element(most.begin(), most.end());
}

/// bins[i] = floor(values[i] per_unit), clipped, counted from the lowest.
AUTOGLM_CLONES
void find_bins(const float* values, size_t count, float per_unit, int32_t* bins) {
  constexpr float kLeast = -Histogram::kBins / 2.0F, kLast = Histogram::kBins / 2.0F - 1;
  for (size_t i = 0; i < count; ++i) {
    const float scaled = std::min(std::max(kLeast, values[i] * per_unit), kLast);
    const auto towards_zero = static_cast<int32_t>(scaled);
    const int32_t above = scaled < static_cast<float>(towards_zero) ? 1 : 0;
    bins[i] = towards_zero - above + static_cast<int32_t>(Histogram::kBins / 2);
  }
}

double relative_entropy(double p, double q) { return p > 0 ? p * std::log2(p / q) : 0; }

}  // namespace

void Histogram::add(std::span<const float> values) {
  if (values.empty()) return;
  reach(exponent_of(largest_magnitude(values)));
  const float per_unit = std::ldexp(static_cast<float>(kBins), -exponent_ - 1);
  constexpr size_t kPiece = 256;
  std::array<int32_t, kPiece> bins;
  for (size_t at = 0; at < values.size(); at += kPiece) {
    const size_t count = std::min(kPiece, values.size() - at);
    find_bins(values.data() + at, count, per_unit, bins.data());
    for (size_t i = 0; i < count; ++i) ++counts_[static_cast<size_t>(bins[i])];
  }
  total_ += static_cast<int64_t>(values.size());
}

void Histogram::merge(const Histogram& other) {
  if (other.empty()) return;
  reach(other.exponent_);
  Histogram same = other;
  same.reach(exponent_);
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += same.counts_[i];
  total_ += other.total_;
}

double Histogram::limit() const { return empty() ? 0 : std::ldexp(1.0, exponent_); }

void Histogram::reach(int exponent) {
  if (counts_.empty()) {
    counts_.assign(kBins, 0);
    exponent_ = exponent;
  }
  for (; exponent_ < exponent; ++exponent_) {
    std::vector<int64_t> wider(kBins, 0);
    for (int64_t i = 0; i < kBins; ++i) {
      wider[static_cast<size_t>(kBins / 4 + i / 2)] += counts_[static_cast<size_t>(i)];
    }
    counts_ = std::move(wider);
  }
}

double Histogram::quantile(double share) const {
  if (empty()) return 0;
  const double wanted = share * static_cast<double>(total_);
  int64_t below = 0;
  for (int64_t i = 0; i < kBins; ++i) {
    below += counts_[static_cast<size_t>(i)];
    if (static_cast<double>(below) >= wanted && below > 0) return -limit() + static_cast<double>(i + 1) * width();
  }
  return limit();
}

std::vector<int64_t> Histogram::magnitudes() const {
  if (empty()) return {};
  std::vector<int64_t> out(kBins / 2);
  for (int64_t i = 0; i < kBins / 2; ++i) {
    out[static_cast<size_t>(i)] =
        counts_[static_cast<size_t>(kBins / 2 + i)] + counts_[static_cast<size_t>(kBins / 2 - 1 - i)];
  }
  return out;
}

std::vector<int64_t> Histogram::coarse(int64_t bins) const {
  std::vector<int64_t> out(static_cast<size_t>(bins), 0);
  for (size_t i = 0; i < counts_.size(); ++i) out[i / static_cast<size_t>(kBins / bins)] += counts_[i];
  return out;
}

double jensen_shannon_distance(Histogram a, Histogram b) {
  if (a.empty() || b.empty()) return 0;
  a.reach(b.exponent_);
  b.reach(a.exponent_);
  double divergence = 0;
  for (size_t i = 0; i < a.counts_.size(); ++i) {
    const double p = static_cast<double>(a.counts_[i]) / static_cast<double>(a.total_);
    const double q = static_cast<double>(b.counts_[i]) / static_cast<double>(b.total_);
    divergence += (relative_entropy(p, (p + q) / 2) + relative_entropy(q, (p + q) / 2)) / 2;
  }
  return std::sqrt(std::max(0.0, divergence));
}

}  // namespace autoglm::calibrate
