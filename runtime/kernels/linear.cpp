#include "runtime/kernels/linear.h"

#include <algorithm>
#include <cstring>

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

/// Puts a token's row where it belongs in tiles (kernels.h).
void put_into_tiles(const std::byte* row, int64_t row_bytes, int64_t token, std::byte* tiles) {
  std::byte* to = tiles + token / kTileTokens * kTileTokens * row_bytes + token % kTileTokens * kTileRowBytes;
  for (int64_t at = 0; at < row_bytes; at += kTileRowBytes, to += kTileTokens * kTileRowBytes) {
    std::memcpy(to, row + at, kTileRowBytes);
  }
}

}  // namespace

Linear::Input Linear::input_of(const LinearCall& call, Compute compute) const {
  const WeightView& view = call.weight->view();
  if (compute == Compute::kInt8 && view.type == WeightType::kQuantized) {
    const bool tiles = kernels_.wants_int8_tiles != nullptr && kernels_.wants_int8_tiles(view, call.m);
    return {.kind = Input::kInt8, .tiles = tiles, .row_bytes = tiles ? int8_row_bytes(view) : view.packed_cols};
  }
  if (kernels_.wants_split_tiles == nullptr || !kernels_.wants_split_tiles(view, call.m)) return {};
  return {.kind = Input::kSplit, .tiles = true, .row_bytes = 4 * split_cols(view)};
}

void Linear::make_rows(const Input& input, const LinearTask& task, float input_scale, std::byte* rows, float* scales,
                       int32_t* sums) {
  const int64_t n = task.weight->packed_cols;
  pool_.parallel_for(task.m, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t t = begin; t < end; ++t) {
      const float* x = task.x + t * task.x_stride;
      std::byte* const row = input.tiles ? row_.data() + thread * input.row_bytes : rows + t * input.row_bytes;
      if (input.kind == Input::kSplit) {
        kernels_.split(x, n, split_cols(*task.weight), row);
      } else {
        auto* const xq = reinterpret_cast<int8_t*>(row);
        scales[t] = kernels_.quantize(x, n, input_scale, xq);
        sum_up(xq, n, sums + t * (n / 16 + 1));
      }
      if (input.tiles) put_into_tiles(row, input.row_bytes, t, rows);
    }
  });
}

void Linear::run(std::span<const LinearCall> calls, Compute compute, float input_scale) {
  // Sizes first: the buffers must not move while tasks point into them.
  size_t floats = 0, bytes = 0, tokens = 0, sums = 0, row = 0;
  const auto size_of_rows = [](const Input& input, int64_t m) {
    return static_cast<size_t>((input.tiles ? padded_tokens(m) : m) * input.row_bytes);
  };
  for (const LinearCall& call : calls) {
    const WeightView& view = call.weight->view();
    const auto m = static_cast<size_t>(call.m), cols = static_cast<size_t>(view.packed_cols);
    if (view.is_spread()) floats += m * cols;
    const Input input = input_of(call, compute);
    bytes += size_of_rows(input, call.m);
    if (input.tiles) row = std::max(row, static_cast<size_t>(input.row_bytes));
    if (input.kind != Input::kInt8) continue;
    tokens += m;
    sums += m * (cols / 16 + 1);
  }
  spread_.assign(std::max(floats, size_t{1}), 0.0f);
  row *= static_cast<size_t>(pool_.threads());
  if (row_.size() < row) row_.resize(row);
  if (rows_.size() < bytes) rows_.resize(bytes);
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
    const Input input = input_of(call, compute);
    std::byte* const rows = rows_.data() + bytes;
    if (input.kind == Input::kInt8) {
      task.xq = reinterpret_cast<const int8_t*>(rows);
      task.x_scales = x_scales_.data() + tokens;
      task.x_sums = x_sums_.data() + sums;
    } else if (input.kind == Input::kSplit) {
      task.x_parts = rows;
    }
    if (input.kind != Input::kFloat) {
      make_rows(input, task, input_scale, rows, x_scales_.data() + tokens, x_sums_.data() + sums);
    }
    bytes += size_of_rows(input, call.m);
    if (input.kind == Input::kInt8) {
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
      if (task.xq != nullptr) {
        kernels_.linear_int8(task);
      } else {
        (task.x_parts != nullptr ? kernels_.linear_split : kernels_.linear)(task);
      }
    }
  });
}

}  // namespace autoglm::kernels
