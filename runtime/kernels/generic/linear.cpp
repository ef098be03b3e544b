#include <algorithm>

#include "core/format/dtype.h"
#include "runtime/kernels/chunk.h"
#include "runtime/kernels/generic/generic.h"

namespace autoglm::kernels::generic {
namespace {

constexpr int64_t kPieceCols = 256;

float scale_at(const WeightView& view, int64_t index) {
  uint32_t whole;
  uint16_t half;
  if (view.scale_type == ScaleType::kF32) {
    float scale;
    std::memcpy(&whole, view.scales + index * 4, sizeof whole);
    std::memcpy(&scale, &whole, sizeof scale);
    return scale;
  }
  std::memcpy(&half, view.scales + index * 2, sizeof half);
  return view.scale_type == ScaleType::kF16 ? format::fp16_to_float(half) : format::bf16_to_float(half);
}

/// u - 2^(bits-1) - zero of packed columns [first, last) of a row.
void integers(const WeightView& view, int64_t row, int64_t first, int64_t last, int* out) {
  uint8_t u[kPieceCols];
  read_row(view, row, first, last, u);
  for (int64_t c = first; c < last; ++c) {
    const int zero = view.zeros == nullptr ? 0 : view.zeros[scale_index(view, row, c)];
    out[c - first] = u[c - first] - (1 << (view.bits - 1)) - zero;
  }
}

/// The real values of columns [first, last) of a row.
void floats(const WeightView& view, int64_t row, int64_t first, int64_t last, float* out) {
  const auto count = static_cast<size_t>(last - first);
  const int64_t at = row * view.cols + first;
  switch (view.type) {
    case WeightType::kF32: std::memcpy(out, view.values + at * 4, count * 4); return;
    case WeightType::kF16: f16_to_f32(view.values + at * 2, last - first, out); return;
    case WeightType::kBF16: bf16_to_f32(view.values + at * 2, last - first, out); return;
    case WeightType::kQuantized: break;
  }
  int q[kPieceCols];
  integers(view, row, first, last, q);
  for (int64_t c = first; c < last; ++c) {
    out[c - first] = static_cast<float>(q[c - first]) * scale_at(view, scale_index(view, row, c));
  }
}

}  // namespace

void linear(const LinearTask& task) {
  const WeightView& view = *task.weight;
  for (int64_t row = task.first_row; row < task.last_row; ++row) {
    for (int64_t t = 0; t < task.m; ++t) task.y[t * task.y_stride + row] = 0;
    for (int64_t first = 0; first < view.packed_cols; first += kPieceCols) {
      const int64_t last = std::min(first + kPieceCols, view.packed_cols);
      float w[kPieceCols];
      floats(view, row, first, last, w);
      for (int64_t t = 0; t < task.m; ++t) {
        const float* x = task.x + t * task.x_stride + first;
        float sum = 0;
        for (int64_t c = 0; c < last - first; ++c) sum += w[c] * x[c];
        task.y[t * task.y_stride + row] += sum;
      }
    }
    for (int64_t t = 0; task.bias != nullptr && t < task.m; ++t) task.y[t * task.y_stride + row] += task.bias[row];
  }
}

void linear_int8(const LinearTask& task) {
  const WeightView& view = *task.weight;
  for (int64_t row = task.first_row; row < task.last_row; ++row) {
    for (int64_t t = 0; t < task.m; ++t) task.y[t * task.y_stride + row] = 0;
    for (int64_t first = 0, last = 0; first < view.packed_cols; first = last) {
      // Pieces end where a scale does.
      last = std::min({first + kPieceCols, (first / view.scale_cols + 1) * view.scale_cols, view.packed_cols});
      int q[kPieceCols];
      integers(view, row, first, last, q);
      const float scale = scale_at(view, scale_index(view, row, first));
      for (int64_t t = 0; t < task.m; ++t) {
        const int8_t* x = task.xq + t * view.packed_cols + first;
        int32_t sum = 0;
        for (int64_t c = 0; c < last - first; ++c) sum += q[c] * x[c];
        task.y[t * task.y_stride + row] += static_cast<float>(sum) * scale;
      }
    }
    for (int64_t t = 0; t < task.m; ++t) {
      float& y = task.y[t * task.y_stride + row];
      y = y * task.x_scales[t] + (task.bias == nullptr ? 0 : task.bias[row]);
    }
  }
}

}  // namespace autoglm::kernels::generic
