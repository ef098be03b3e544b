#pragma once
/// The scale of a few values that are to be small integers, with the least weighted squared error: levels by guessed
/// ranges, the best line through each, the best of those.
#include <algorithm>
#include <cstddef>

namespace autoglm::exports {

/// value = scale * q - minimum, both at least 0, q in 0..top. `count` is a multiple of 8.
struct Affine {
  float scale = 0, minimum = 0;
};
Affine fit_affine(const float* values, const float* weights, size_t count, int top);

/// value = scale * q with q in -middle..middle-1; the scale's sign is free, since one side has a level more. `count` is
/// a multiple of 8.
float fit_symmetric(const float* values, const float* weights, size_t count, int middle);

/// The nearest integer, halves to even, of |x| < 2^22: 1.5 * 2^23 leaves no room for a fraction. Without a branch or a
/// call, so that loops over it become vector instructions on any machine.
inline float nearest_float(float x) {
  constexpr float kNoFraction = 12582912.0F;
  return (x + kNoFraction) - kNoFraction;
}

/// The same of any x as an integer; what lies beyond, or is no number, ends at +-2^22.
inline int nearest(float x) {
  constexpr float kMost = 4194304;
  return static_cast<int>(nearest_float(std::min(std::max(-kMost, x), kMost)));
}

}  // namespace autoglm::exports
