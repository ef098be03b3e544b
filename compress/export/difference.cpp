#include "compress/export/difference.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "core/base/simd.h"

namespace autoglm::exports {
namespace {

constexpr size_t kLanes = 16;

/// In lanes, which the compiler keeps in vector registers.
struct Lanes {
  float most[kLanes] = {}, largest[kLanes] = {};
  float nothing[kLanes] = {};  ///< sums of x - x: 0 while all are finite
};

AUTOGLM_CLONES
void add(const float* found, const float* expected, size_t count, Lanes& lanes) {
  for (size_t i = 0; i < count; i += kLanes) {
    for (size_t l = 0; l < kLanes; ++l) {
      const float off = found[i + l] - expected[i + l];
      lanes.most[l] = std::max(lanes.most[l], std::abs(off));
      lanes.largest[l] = std::max(lanes.largest[l], std::abs(expected[i + l]));
      lanes.nothing[l] += off - off;
    }
  }
}

}  // namespace

Difference& Difference::operator+=(const Difference& other) {
  most = std::max(most, other.most);
  largest = std::max(largest, other.largest);
  finite = finite && other.finite;
  return *this;
}

Difference difference_of(std::span<const float> found, std::span<const float> expected) {
  Lanes lanes;
  const size_t whole = expected.size() / kLanes * kLanes;
  add(found.data(), expected.data(), whole, lanes);
  float last[2][kLanes] = {};
  std::copy(found.begin() + static_cast<std::ptrdiff_t>(whole), found.end(), last[0]);
  std::copy(expected.begin() + static_cast<std::ptrdiff_t>(whole), expected.end(), last[1]);
  add(last[0], last[1], kLanes, lanes);
  Difference out;
  for (size_t l = 0; l < kLanes; ++l) out += {lanes.most[l], lanes.largest[l], lanes.nothing[l] == 0};
  return out;
}

}  // namespace autoglm::exports
