#include "runtime/kernels/linear.h"

#include <algorithm>

#include "runtime/kernels/chunk.h"

namespace autoglm::kernels {
namespace {

/// What threads share out: pairs of blocks, which the kernels handle together.
constexpr int64_t kUnitRows = 2 * kBlockRows;

int64_t units_of(const LinearTask& task) { return (task.weight->rows + kUnitRows - 1) / kUnitRows; }

/// Moves a token's columns to where packing put them; `to` is zero elsewhere.
void spread(const WeightView& view, const float* x, float* to) {
  for (int64_t c = 0; c < view.cols; c += view.group_cols) {
    std::copy(x + c, x + std::min(c + view.group_cols, view.cols), to + packed_column(view, c));
  }
}

/// sums[i] is the sum of the first 16 * i values.
void sum_up(const int8_t* xq, int64_t n, int32_t* sums) {
  int32_t sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (i % 16 == 0) sums[i / 16] = sum;
    sum += xq[i];
  }
  sums[n / 16] = sum;
}

}  // namespace

void Linear::run(std::span<const LinearCall> calls, Compute compute, float input_scale) {
  // Sizes first: the buffers must not move while tasks point into them.
  size_t floats = 0, bytes = 0, tokens = 0, sums = 0;
  const auto is_int8 = [&](const LinearCall& call) { return compute == Compute::kInt8 && call.weight->is_quantized(); };
  for (const LinearCall& call : calls) {
    const WeightView& view = call.weight->view();
    const auto m = static_cast<size_t>(call.m), cols = static_cast<size_t>(view.packed_cols);
    if (view.is_spread()) floats += m * cols;
    if (!is_int8(call)) continue;
    bytes += m * cols;
    tokens += m;
    sums += m * (cols / 16 + 1);
  }
  spread_.assign(std::max(floats, size_t{1}), 0.0f);
  if (xq_.size() < bytes) xq_.resize(bytes);
  if (x_scales_.size() < tokens) x_scales_.resize(tokens);
  if (x_sums_.size() < sums) x_sums_.resize(sums);

  tasks_.clear();
  floats = bytes = tokens = sums = 0;
  int64_t units = 0;
  for (const LinearCall& call : calls) {
    const WeightView& view = call.weight->view();
    LinearTask task{.weight = &view,
                    .m = call.m,
                    .bias = call.bias,
                    .y = call.y,
                    .y_stride = call.y_stride,
                    .x = call.x,
                    .x_stride = call.x_stride};
    const auto m = static_cast<size_t>(call.m), cols = static_cast<size_t>(view.packed_cols);
    if (view.is_spread()) {
      float* to = spread_.data() + floats;
      for (int64_t t = 0; t < call.m; ++t) spread(view, call.x + t * call.x_stride, to + t * view.packed_cols);
      task.x = to;
      task.x_stride = view.packed_cols;
      floats += m * cols;
    }
    if (is_int8(call)) {
      int8_t* const xq = xq_.data() + bytes;
      float* const scales = x_scales_.data() + tokens;
      int32_t* const x_sums = x_sums_.data() + sums;
      const int64_t n = view.packed_cols;
      pool_.parallel_for(call.m, [&](int64_t begin, int64_t end, int) {
        for (int64_t t = begin; t < end; ++t) {
          scales[t] = kernels_.quantize(task.x + t * task.x_stride, n, input_scale, xq + t * n);
          sum_up(xq + t * n, n, x_sums + t * (n / 16 + 1));
        }
      });
      task.xq = xq;
      task.x_scales = scales;
      task.x_sums = x_sums;
      bytes += m * cols;
      tokens += m;
      sums += m * (cols / 16 + 1);
    }
    units += units_of(task);
    tasks_.push_back(task);
  }

  pool_.parallel_for(units, [&](int64_t begin, int64_t end, int) {
    int64_t passed = 0;
    for (LinearTask task : tasks_) {
      const int64_t count = units_of(task);
      const int64_t first = std::max(begin - passed, int64_t{0}), last = std::min(end - passed, count);
      passed += count;
      if (first >= last || task.m == 0) continue;
      task.first_row = first * kUnitRows;
      task.last_row = std::min(last * kUnitRows, task.weight->rows);
      (task.xq != nullptr ? kernels_.linear_int8 : kernels_.linear)(task);
    }
  });
}

}  // namespace autoglm::kernels
