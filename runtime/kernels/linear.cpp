#include "runtime/kernels/linear.h"

#include <algorithm>
#include <cstring>

#include "runtime/kernels/chunk.h"

namespace autoglm::kernels {
namespace {

/// What threads share out: pairs of blocks, which products of several tokens handle together.
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

/// Up to the next multiple of a row of a tile.
size_t aligned(size_t bytes) {
  constexpr size_t kAlignment = kTileRowBytes;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}
std::byte* aligned(std::vector<std::byte>& bytes) {
  const auto address = reinterpret_cast<size_t>(bytes.data());
  return bytes.data() + (aligned(address) - address);
}

/// Whether two calls multiply the same numbers by matrices of as many columns, none of them moved apart.
bool have_one_input(const LinearCall& a, const LinearCall& b) {
  return a.x == b.x && a.x_stride == b.x_stride && a.m == b.m && a.weight->cols() == b.weight->cols() &&
         !a.weight->view().is_spread() && !b.weight->view().is_spread();
}

}  // namespace

Linear::Input Linear::input_of(const LinearCall& call, Compute compute) const {
  const WeightView& view = call.weight->view();
  if (compute == Compute::kInt8 && view.type == WeightType::kQuantized) {
    const bool tiles = kernels_.wants_int8_tiles != nullptr && kernels_.wants_int8_tiles(view, call.m);
    return {.kind = Input::kInt8, .tiles = tiles, .row_bytes = tiles ? int8_row_bytes(view) : view.packed_cols};
  }
  const SplitInput split = kernels_.wants_split == nullptr ? SplitInput::kNone : kernels_.wants_split(view, call.m);
  if (split == SplitInput::kNone) return {};
  return {.kind = Input::kSplit, .tiles = split == SplitInput::kTiles, .row_bytes = split_row_bytes(view)};
}

void Linear::convert(const Input& input, const LinearTask& task, int64_t token, int thread, float input_scale) {
  const float* x = task.x + token * task.x_stride;
  const int64_t n = task.weight->packed_cols;
  std::byte* const rows = aligned(rows_) + input.rows_at;
  std::byte* const row =
      input.tiles ? thread_rows_.data() + thread * thread_row_bytes_ : rows + token * input.row_bytes;
  if (input.kind == Input::kSplit) {
    kernels_.split(x, n, input.row_bytes / 4, row);
  } else {
    auto* const xq = reinterpret_cast<int8_t*>(row);
    x_scales_[input.tokens_at + static_cast<size_t>(token)] = kernels_.quantize(x, n, input_scale, xq);
    sum_up(xq, n, x_sums_.data() + input.sums_at + token * (n / 16 + 1));
  }
  if (input.tiles) put_into_tiles(row, input.row_bytes, token, rows);
}

void Linear::run(std::span<const LinearCall> calls, Compute compute, float input_scale) {
  // Sizes first: the buffers must not move while tasks point into them.
  size_t floats = 0, bytes = 0, tokens = 0, sums = 0;
  int64_t converted = 0;
  thread_row_bytes_ = 0;
  inputs_.clear();
  for (size_t i = 0; i < calls.size(); ++i) {
    const LinearCall& call = calls[i];
    const WeightView& view = call.weight->view();
    const auto m = static_cast<size_t>(call.m), cols = static_cast<size_t>(view.packed_cols);
    if (view.is_spread()) floats += m * cols;
    Input input = input_of(call, compute);
    if (i > 0 && have_one_input(calls[i - 1], call) && inputs_.back().is_like(input)) {
      input = inputs_.back();
      input.is_shared = true;
    } else if (input.kind != Input::kFloat) {
      input.rows_at = bytes;
      input.tokens_at = tokens;
      input.sums_at = sums;
      bytes += aligned(static_cast<size_t>((input.tiles ? padded_tokens(call.m) : call.m) * input.row_bytes));
      if (input.tiles) thread_row_bytes_ = std::max(thread_row_bytes_, input.row_bytes);
      if (input.kind == Input::kInt8) {
        tokens += m;
        sums += m * (cols / 16 + 1);
      }
      converted += call.m;
    }
    inputs_.push_back(input);
  }
  spread_.assign(std::max(floats, size_t{1}), 0.0f);
  const auto row = static_cast<size_t>(thread_row_bytes_ * pool_.threads());
  bytes += kTileRowBytes;  // to begin at an aligned address
  if (thread_rows_.size() < row) thread_rows_.resize(row);
  if (rows_.size() < bytes) rows_.resize(bytes);
  if (x_scales_.size() < tokens) x_scales_.resize(tokens);
  if (x_sums_.size() < sums) x_sums_.resize(sums);

  tasks_.clear();
  floats = 0;
  int64_t units = 0;
  for (size_t i = 0; i < calls.size(); ++i) {
    const LinearCall& call = calls[i];
    const WeightView& view = call.weight->view();
    LinearTask task{.weight = &view,
                    .m = call.m,
                    .bias = call.bias,
                    .y = call.y,
                    .y_stride = call.y_stride,
                    .x = call.x,
                    .x_stride = call.x_stride};
    if (view.is_spread()) {
      float* to = spread_.data() + floats;
      for (int64_t t = 0; t < call.m; ++t) spread(view, call.x + t * call.x_stride, to + t * view.packed_cols);
      task.x = to;
      task.x_stride = view.packed_cols;
      floats += static_cast<size_t>(call.m * view.packed_cols);
    }
    const Input& input = inputs_[i];
    const std::byte* rows = aligned(rows_) + input.rows_at;
    if (input.kind == Input::kInt8) {
      task.xq = reinterpret_cast<const int8_t*>(rows);
      task.x_scales = x_scales_.data() + input.tokens_at;
      task.x_sums = x_sums_.data() + input.sums_at;
    } else if (input.kind == Input::kSplit) {
      task.x_parts = rows;
    }
    units += units_of(task);
    tasks_.push_back(task);
  }

  pool_.parallel_for(converted, [&](int64_t begin, int64_t end, int thread) {
    int64_t passed = 0;
    for (size_t i = 0; i < tasks_.size(); ++i) {
      const LinearTask& task = tasks_[i];
      if (inputs_[i].kind == Input::kFloat || inputs_[i].is_shared) continue;
      const int64_t first = std::max(begin - passed, int64_t{0}), last = std::min(end - passed, task.m);
      for (int64_t t = first; t < last; ++t) convert(inputs_[i], task, t, thread, input_scale);
      passed += task.m;
    }
  });

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
