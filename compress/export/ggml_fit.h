#pragma once
/// The scale of a few values that are to be small integers, with the least weighted squared error: levels by guessed
/// ranges, the best line through each, the best of those.
#include <cmath>
#include <cstddef>

namespace autoglm::exports {

/// value = scale * q - minimum, both at least 0, q in 0..top.
struct Affine {
  float scale = 0, minimum = 0;
};
Affine fit_affine(const float* values, const float* weights, size_t count, int top);

/// value = scale * q with q in -middle..middle-1; the scale's sign is free, since one side has a level more.
float fit_symmetric(const float* values, const float* weights, size_t count, int middle);

/// Half away from zero; `x` is small.
inline int nearest(float x) { return static_cast<int>(std::lround(x)); }

}  // namespace autoglm::exports
