#pragma once
/// The random numbers of sampling: written out, because std::shuffle and the std distributions differ between
/// libraries.
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

namespace autoglm::eval {

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    state_ += 0x9E3779B97F4A7C15ULL;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }

  /// Uniform in [0, 1), in steps of 2^-53.
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

  /// Uniform in [0, n), n > 0: draws that would favour small numbers are thrown away.
  uint64_t below(uint64_t n) {
    const uint64_t unfair = (0 - n) % n;  // 2^64 mod n
    uint64_t draw = next();
    while (draw < unfair) draw = next();
    return draw % n;
  }

 private:
  uint64_t state_;
};

/// `count` different indices of 0..n-1 in random order (all of them when count >= n): the first steps of a Fisher-Yates
/// shuffle, so that a smaller draw with the same seed is the beginning of a larger one.
inline std::vector<int64_t> draw_indices(int64_t n, int64_t count, uint64_t seed) {
  std::vector<int64_t> indices(static_cast<size_t>(n));
  std::iota(indices.begin(), indices.end(), int64_t{0});
  if (count > n) count = n;
  SplitMix64 random(seed);
  for (int64_t i = 0; i < count; ++i) {
    std::swap(indices[i], indices[i + static_cast<int64_t>(random.below(static_cast<uint64_t>(n - i)))]);
  }
  indices.resize(static_cast<size_t>(count));
  return indices;
}

}  // namespace autoglm::eval
