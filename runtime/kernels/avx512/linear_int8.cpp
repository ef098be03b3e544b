#include <utility>

#include "runtime/kernels/avx512/avx512.h"
#include "runtime/kernels/avx512/int8.h"

namespace autoglm::kernels::avx512 {
namespace {

/// Adds the products of a chunk, or of a half of it, with a token's columns from x on; even and odd quads apart.
template <int bits, int first, int... quads>
inline void add_quads(const std::byte* chunk, const int8_t* x, __m512i (&sums)[2],
                      std::integer_sequence<int, quads...>) {
  const auto four = [&](int quad) {
    int32_t columns;
    __builtin_memcpy(&columns, x + 4 * quad, sizeof columns);
    return _mm512_set1_epi32(columns);
  };
  ((sums[quads % 2] =
        _mm512_dpbusd_epi32(sums[quads % 2], unpack_quad<bits, first + quads>(chunk), four(first + quads))),
   ...);
}

/// One token: weights go from memory through registers, in the order in which they lie there.
template <int bits>
void multiply_vector(const LinearTask& task) {
  constexpr int64_t kChunkBytes = bits * kVectorBytes;
  const WeightView& view = *task.weight;
  const int64_t block_bytes = view.packed_cols / kChunkCols * kChunkBytes;
  for (int64_t row = task.first_row; row < task.last_row; row += kBlockRows) {
    const int64_t block = row / kBlockRows;
    const std::byte* values = view.values + block * block_bytes;
    __m512 y = _mm512_setzero_ps();
    for (int64_t group = 0; group < view.groups; ++group) {
      const int64_t first = group * view.scale_cols, last = smaller(first + view.scale_cols, view.packed_cols);
      const int32_t x_sum = task.x_sums[last / 16] - task.x_sums[first / 16];
      __m512i sums[2] = {_mm512_set1_epi32(-(1 << (bits - 1)) * x_sum), _mm512_setzero_si512()};
      if (view.scale_cols == 16) {
        const std::byte* chunk = values + first / kChunkCols * kChunkBytes;
        const int8_t* x = task.xq + first / kChunkCols * kChunkCols;
        if (first % kChunkCols == 0) {
          add_quads<bits, 0>(chunk, x, sums, std::make_integer_sequence<int, 4>());
        } else {
          add_quads<bits, 4>(chunk, x, sums, std::make_integer_sequence<int, 4>());
        }
      } else {
        for (int64_t col = first; col < last; col += kChunkCols) {
          const std::byte* chunk = values + col / kChunkCols * kChunkBytes;
          prefetch<kChunkBytes>(chunk);
          add_quads<bits, 0>(chunk, task.xq + col, sums, std::make_integer_sequence<int, 8>());
        }
      }
      const int64_t index = (block * view.groups + group) * kBlockRows;
      __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(sums[0], sums[1]));
      if (view.zeros != nullptr) {
        sum = _mm512_fnmadd_ps(load_zeros(view, index), _mm512_set1_ps(static_cast<float>(x_sum)), sum);
      }
      y = _mm512_fmadd_ps(sum, load_scales(view, index), y);
    }
    const __mmask16 rows = lanes(task.last_row - row);
    const __m512 bias = task.bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(rows, task.bias + row);
    _mm512_mask_storeu_ps(task.y + row, rows, _mm512_fmadd_ps(y, _mm512_set1_ps(task.x_scales[0]), bias));
  }
}

}  // namespace

void linear_int8(const LinearTask& task) {
  if (task.m > 1) return run_blocked<Int8>(task);
  with_bits(task.weight->bits, [&]<int bits>() { multiply_vector<bits>(task); });
}

}  // namespace autoglm::kernels::avx512
