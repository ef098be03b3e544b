#pragma once
/// Difference: how far the floats of a file are from those that they were made from.
#include <limits>
#include <span>

namespace autoglm::exports {

struct Difference {
  float most = 0;      ///< |found - expected|
  float largest = 0;   ///< |expected|
  bool finite = true;  ///< all are numbers

  /// Of the largest; infinite where that is 0 and something else was found.
  double share() const {
    if (most == 0) return 0;
    return largest > 0 ? static_cast<double>(most) / largest : std::numeric_limits<double>::infinity();
  }
  Difference& operator+=(const Difference& other);  ///< of both together
};

/// Both are of one size.
Difference difference_of(std::span<const float> found, std::span<const float> expected);

}  // namespace autoglm::exports
