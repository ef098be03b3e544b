#include "runtime/kernels/avx512/simd.h"
#include "runtime/kernels/avx512_bf16/avx512_bf16.h"
#include "runtime/kernels/blocked.h"

namespace autoglm::kernels::avx512_bf16 {
namespace {

constexpr int64_t kStep = 32;  // columns of a vector
constexpr int kRows = 4, kTokens = 4;
/// Of weights: they stay in the second-level cache while all tokens meet them.
constexpr int64_t kCachedBytes = 1 << 18;

/// A vector of a row from column `col` on; load_end: the last, with zeros behind it.
__m512bh load(const std::byte* row, int64_t col) {
  return reinterpret_cast<__m512bh>(_mm512_loadu_si512(row + col * 2));
}
__m512bh load_end(const std::byte* row, int64_t col, int64_t cols) {
  return reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16((__mmask32{1} << (cols - col)) - 1, row + col * 2));
}
__m512bh load_part(const std::byte* part, int64_t col) {
  return reinterpret_cast<__m512bh>(_mm512_load_si512(part + col * 2));
}

/// One row times one token: memory is read in the order in which it lies.
float dot(const std::byte* row, const std::byte* x, int64_t cols, int64_t part_bytes) {
  __m512 first = _mm512_setzero_ps(), rest = first, first_odd = first, rest_odd = first;
  const auto add = [&](__m512bh w, int64_t col, __m512& to_first, __m512& to_rest) {
    to_first = _mm512_dpbf16_ps(to_first, w, load_part(x, col));
    to_rest = _mm512_dpbf16_ps(to_rest, w, load_part(x + part_bytes, col));
  };
  int64_t col = 0;
  for (; col + 2 * kStep <= cols; col += 2 * kStep) {
    add(load(row, col), col, first, rest);
    add(load(row, col + kStep), col + kStep, first_odd, rest_odd);
  }
  if (col + kStep <= cols) {
    add(load(row, col), col, first, rest);
    col += kStep;
  }
  if (col < cols) add(load_end(row, col, cols), col, first_odd, rest_odd);
  return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(rest, rest_odd), _mm512_add_ps(first, first_odd)));
}

/// Some rows times T tokens from `token` on, or as many as there are.
template <int T>
void multiply(const LinearTask& task, int64_t row, int64_t token) {
  if constexpr (T > 1) {
    if (task.m - token < T) return multiply<T - 1>(task, row, token);
  }
  const WeightView& view = *task.weight;
  const int64_t row_bytes = split_row_bytes(view), part_bytes = row_bytes / 2;
  const std::byte *w[kRows], *x[T];
  __m512 sums[kRows][T];
  for (int r = 0; r < kRows; ++r) w[r] = view.values + smaller(row + r, view.rows - 1) * view.cols * 2;
  for (int t = 0; t < T; ++t) x[t] = task.x_parts + (token + t) * row_bytes;
  for (auto& of_row : sums) {
    for (__m512& sum : of_row) sum = _mm512_setzero_ps();
  }
  const auto add = [&](int64_t col, auto load_weights) {
    __m512bh weights[kRows];
    for (int r = 0; r < kRows; ++r) weights[r] = load_weights(w[r]);
    for (int part = 1; part >= 0; --part) {  // the smaller part first
      for (int t = 0; t < T; ++t) {
        const __m512bh input = load_part(x[t] + part * part_bytes, col);
        for (int r = 0; r < kRows; ++r) sums[r][t] = _mm512_dpbf16_ps(sums[r][t], weights[r], input);
      }
    }
  };
  int64_t col = 0;
  for (; col + kStep <= view.cols; col += kStep) {
    add(col, [col](const std::byte* from) { return load(from, col); });
  }
  if (col < view.cols) add(col, [&](const std::byte* from) { return load_end(from, col, view.cols); });
#pragma GCC unroll 4  // else sums are kept in memory
  for (int r = 0; r < kRows; ++r) {
    if (row + r >= task.last_row) break;
    const float bias = task.bias == nullptr ? 0 : task.bias[row + r];
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
      task.y[(token + t) * task.y_stride + row + r] = _mm512_reduce_add_ps(sums[r][t]) + bias;
    }
  }
}

}  // namespace

SplitInput wants_split(const WeightView& weight, int64_t) {
  return weight.type == WeightType::kBF16 ? SplitInput::kRows : SplitInput::kNone;
}

void split(const float* x, int64_t n, int64_t part_cols, std::byte* row) {
  using avx512::Simd;
  const __m512 infinite = _mm512_castsi512_ps(_mm512_set1_epi32(0x7F800000));
  for (int64_t i = 0; i < part_cols; i += Simd::kLanes) {
    const __m512 value = Simd::load(x + i, n - i);
    std::byte* to = row + i * 2;
    Simd::store_bf16(to, value, Simd::kLanes);
    const __m512 first = Simd::load_bf16(to, Simd::kLanes);
    const __mmask16 finite = _mm512_cmp_ps_mask(_mm512_abs_ps(first), infinite, _CMP_LT_OQ);
    Simd::store_bf16(to + part_cols * 2, _mm512_maskz_sub_ps(finite, value, first), Simd::kLanes);
  }
}

void linear_split(const LinearTask& task) {
  const WeightView& view = *task.weight;
  if (task.m == 1) {
    for (int64_t row = task.first_row; row < task.last_row; ++row) {
      task.y[row] = dot(view.values + row * view.cols * 2, task.x_parts, view.cols, split_row_bytes(view) / 2) +
                    (task.bias == nullptr ? 0 : task.bias[row]);
    }
    return;
  }
  const int64_t strip = (kCachedBytes / (view.cols * 2 * kRows) + 1) * kRows;
  for (int64_t first = task.first_row; first < task.last_row; first += strip) {
    const int64_t last = smaller(first + strip, task.last_row);
    for (int64_t token = 0; token < task.m; token += kTokens) {
      for (int64_t row = first; row < last; row += kRows) multiply<kTokens>(task, row, token);
    }
  }
}

}  // namespace autoglm::kernels::avx512_bf16
