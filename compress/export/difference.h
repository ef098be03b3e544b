#pragma once
/// Difference: how far the floats of a file are from those that they were made from.
#include <span>

namespace autoglm::exports {

struct Difference {
  float most = 0;      ///< |found - expected|
  float largest = 0;   ///< |expected|
  bool finite = true;  ///< all are numbers

  double share() const { return largest > 0 ? static_cast<double>(most) / largest : 0; }
  Difference& operator+=(const Difference& other);  ///< of both together
};

/// Both are of one size.
Difference difference_of(std::span<const float> found, std::span<const float> expected);

}  // namespace autoglm::exports
