#include <cmath>

#include "runtime/kernels/generic/generic.h"

namespace autoglm::kernels::generic {

void rms_norm(const float* x, int64_t x_stride, const float* weight, float eps, int64_t rows, int64_t n, float* y,
              int64_t y_stride) {
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = x + row * x_stride;
    float* to = y + row * y_stride;
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(from[i]) * from[i];
    const float factor = 1.0f / std::sqrt(static_cast<float>(squares / static_cast<double>(n)) + eps);
    for (int64_t i = 0; i < n; ++i) to[i] = from[i] * factor * weight[i];
  }
}

}  // namespace autoglm::kernels::generic
