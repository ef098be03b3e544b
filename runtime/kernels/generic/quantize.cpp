#include <algorithm>
#include <cmath>

#include "runtime/kernels/generic/generic.h"

namespace autoglm::kernels::generic {

float quantize(const float* x, int64_t n, float scale, int8_t* xq) {
  if (scale == 0) {
    float largest = 0;
    for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(x[i]));
    scale = largest / 127.5f;
    if (!(scale > 0)) scale = 0x1p-23f;
  }
  if (!std::all_of(x, x + n, [](float value) { return std::isfinite(value); })) scale = NAN;
  for (int64_t i = 0; i < n; ++i) {
    const float q = x[i] / scale;
    xq[i] = static_cast<int8_t>(std::nearbyint(q >= -128 ? std::min(q, 127.0f) : -128.0f));  // NaN becomes -128
  }
  return scale;
}

}  // namespace autoglm::kernels::generic
