#pragma once
/// The scales of groups of values that are to be small integers, with the least weighted squared error: levels by
/// guessed ranges, the best line through each, the best of those. Several groups at once, one in each lane of vectors.
#include <algorithm>
#include <cstddef>
#include <span>

namespace autoglm::exports {

constexpr size_t kFitsAtOnce = 4;  ///< groups in one call, or fewer
constexpr size_t kMostValuesOfGroup = 32;

/// The integers that a group has: 0..top() with a minimum, else -middle()..middle()-1, stored from 0 on.
struct Levels {
  int bits;
  bool has_minimum;
  int top() const { return (1 << bits) - 1; }
  int middle() const { return has_minimum ? 0 : 1 << (bits - 1); }
};

/// value = scale * q - minimum, both at least 0; without a minimum the scale's sign is free, since one side has a level
/// more.
struct Affine {
  float scale = 0, minimum = 0;
};

/// Of fits.size() groups of as many values each, one behind another, weights likewise (empty: all alike).
void fit_groups(std::span<const float> values, std::span<const float> weights, Levels levels, std::span<Affine> fits);

/// Added to any |x| < 2^22 and taken away again, it leaves the nearest integer, halves to even: 1.5 * 2^23 has no room
/// for a fraction.
constexpr float kNoFraction = 12582912.0F;

/// The nearest integer; of what lies beyond +-2^22, or is no number, one of those.
inline int nearest(float x) {
  constexpr float kMost = 4194304;
  return static_cast<int>((std::min(std::max(-kMost, x), kMost) + kNoFraction) - kNoFraction);
}

}  // namespace autoglm::exports
