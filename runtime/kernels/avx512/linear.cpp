#include "runtime/kernels/avx512/avx512.h"
#include "runtime/kernels/avx512/unpack.h"
#include "runtime/kernels/blocked.h"

namespace autoglm::kernels::avx512 {
namespace {

/// One token: weights go from memory through registers, in the order in which they lie there.
template <int bits>
void multiply_vector(const LinearTask& task) {
  const WeightView& view = *task.weight;
  const __m512 values = table<bits>();
  for (int64_t row = task.first_row; row < task.last_row; row += kBlockRows) {
    const int64_t block = row / kBlockRows;
    __m512 y = _mm512_setzero_ps();
    for (int64_t group = 0; group < view.groups; ++group) {
      const int64_t first = group * view.scale_cols, last = smaller(first + view.scale_cols, view.packed_cols);
      __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
      for (int64_t col = first; col < last;) {
        const std::byte* chunk = chunk_of(view, block, col);
        const float* x = task.x + col / kChunkCols * kChunkCols;
        const auto add = [&](int c, __m512 w) { sums[c & 3] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[c]), sums[c & 3]); };
        if (view.scale_cols == 16) {
          visit_half<bits>(chunk, col % kChunkCols != 0, values, add);
          col += 16;
        } else {
          prefetch<bits * kVectorBytes>(chunk);
          visit_chunk<bits>(chunk, values, add);
          col += kChunkCols;
        }
      }
      const int64_t index = (block * view.groups + group) * kBlockRows;
      __m512 sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
      if (view.zeros != nullptr) {
        __m512 x_sum = _mm512_setzero_ps();
        for (int64_t col = first; col < last; col += 16) x_sum = _mm512_add_ps(x_sum, _mm512_loadu_ps(task.x + col));
        sum = _mm512_fnmadd_ps(load_zeros(view, index), _mm512_set1_ps(_mm512_reduce_add_ps(x_sum)), sum);
      }
      y = _mm512_fmadd_ps(sum, load_scales(view, index), y);
    }
    const __mmask16 rows = lanes(task.last_row - row);
    if (task.bias != nullptr) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(rows, task.bias + row));
    _mm512_mask_storeu_ps(task.y + row, rows, y);
  }
}

template <WeightType type>
inline __m512 widen(__m256i halves) {
  return type == WeightType::kBF16 ? from_bf16(halves) : _mm512_cvtph_ps(halves);
}

/// 16 elements of a float weight from byte address `at`, those beyond `mask` zero.
template <WeightType type>
inline __m512 load_floats(const std::byte* at, __mmask16 mask) {
  if constexpr (type == WeightType::kF32) return _mm512_maskz_loadu_ps(mask, at);
  return widen<type>(_mm256_maskz_loadu_epi16(mask, at));
}

/// The product of one row of a float weight and as many inputs. Elements of 16 bits come a line at a time: the fewer
/// instructions for each, the more lines the processor asks memory for ahead.
template <WeightType type>
float dot(const std::byte* w, const float* x, int64_t cols) {
  constexpr int64_t kSize = type == WeightType::kF32 ? 4 : 2;
  __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
  int64_t col = 0;
  for (; col + 32 <= cols; col += 32) {
    const std::byte* const at = w + col * kSize;
    const __m512i line = _mm512_loadu_si512(at);
    if constexpr (type == WeightType::kF32) {
      even = _mm512_fmadd_ps(_mm512_castsi512_ps(line), _mm512_loadu_ps(x + col), even);
      odd = _mm512_fmadd_ps(_mm512_loadu_ps(at + 64), _mm512_loadu_ps(x + col + 16), odd);
    } else {
      even = _mm512_fmadd_ps(widen<type>(_mm512_castsi512_si256(line)), _mm512_loadu_ps(x + col), even);
      odd = _mm512_fmadd_ps(widen<type>(_mm512_extracti64x4_epi64(line, 1)), _mm512_loadu_ps(x + col + 16), odd);
    }
  }
  for (; col < cols; col += 16) {
    const __mmask16 mask = lanes(cols - col);
    even = _mm512_fmadd_ps(load_floats<type>(w + col * kSize, mask), _mm512_maskz_loadu_ps(mask, x + col), even);
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
}

/// One token and float weights: memory is read in the order in which it lies.
template <WeightType type>
void multiply_vector_float(const LinearTask& task) {
  const int64_t row_bytes = task.weight->cols * (type == WeightType::kF32 ? 4 : 2);
  for (int64_t row = task.first_row; row < task.last_row; ++row) {
    task.y[row] = dot<type>(task.weight->values + row * row_bytes, task.x, task.weight->cols) +
                  (task.bias == nullptr ? 0 : task.bias[row]);
  }
}

/// Several tokens: a panel holds real values, column after column, 16 rows each.
struct Float {
  static constexpr int64_t kPanelCols = 128;
  static constexpr int kTokens = 6;

  struct alignas(64) Panel {
    float columns[kPanelCols * kBlockRows];
  };

  template <int bits>
  static void fill_bits(const WeightView& view, int64_t block, int64_t first_col, int64_t last_col, Panel& panel) {
    const __m512 values = table<bits>();
    for (int64_t col = first_col; col < last_col;) {
      const int64_t index = (block * view.groups + col / view.scale_cols) * kBlockRows;
      const __m512 scale = load_scales(view, index);
      const __m512 shift = view.zeros == nullptr ? _mm512_setzero_ps() : _mm512_mul_ps(scale, load_zeros(view, index));
      float* to = panel.columns + (col / kChunkCols * kChunkCols - first_col) * kBlockRows;
      const auto store = [&](int c, __m512 w) {
        _mm512_store_ps(to + c * kBlockRows, _mm512_fmsub_ps(w, scale, shift));
      };
      const std::byte* chunk = chunk_of(view, block, col);
      if (view.scale_cols == 16) {
        visit_half<bits>(chunk, col % kChunkCols != 0, values, store);
        col += 16;
      } else {
        visit_chunk<bits>(chunk, values, store);
        col += kChunkCols;
      }
    }
  }

  template <WeightType type>
  static void fill_float(const WeightView& view, int64_t block, int64_t first_col, int64_t last_col, Panel& panel) {
    constexpr int64_t kSize = type == WeightType::kF32 ? 4 : 2;
    const int64_t rows = smaller(kBlockRows, view.rows - block * kBlockRows);
    for (int64_t col = first_col; col < last_col; col += 16) {
      const __mmask16 mask = lanes(last_col - col);
      __m512 in[16];
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t row = block * kBlockRows + (i < rows ? i : 0);
        in[i] = load_floats<type>(view.values + (row * view.cols + col) * kSize, i < rows ? mask : __mmask16{0});
      }
      transpose(in, panel.columns + (col - first_col) * kBlockRows);
    }
  }

  static void fill(const WeightView& view, int64_t block, int64_t first_col, int64_t last_col, Panel& panel) {
    fill_floats<Float>(view, block, first_col, last_col, panel);
  }

  template <int T>
  static void tile(const Tile& tile, const Panel (&panels)[2]) {
    const LinearTask& task = *tile.task;
    const float* x = task.x + tile.first_token * task.x_stride + tile.first_col;
    __m512 y[2][T];
    for (int i = 0; i < 2; ++i) {
      for (int t = 0; t < T; ++t) y[i][t] = _mm512_load_ps(tile.sums + t * kPairRows + i * kBlockRows);
    }
    for (int64_t k = 0; k < tile.last_col - tile.first_col; ++k) {
      const __m512 w0 = _mm512_load_ps(panels[0].columns + k * kBlockRows);
      const __m512 w1 = _mm512_load_ps(panels[1].columns + k * kBlockRows);
      for (int t = 0; t < T; ++t) {
        const __m512 value = _mm512_set1_ps(x[t * task.x_stride + k]);
        y[0][t] = _mm512_fmadd_ps(w0, value, y[0][t]);
        y[1][t] = _mm512_fmadd_ps(w1, value, y[1][t]);
      }
    }
    for (int i = 0; i < 2; ++i) {
      for (int t = 0; t < T; ++t) _mm512_store_ps(tile.sums + t * kPairRows + i * kBlockRows, y[i][t]);
    }
  }

  static float factor(const LinearTask&, int64_t) { return 1; }
};

}  // namespace

void linear(const LinearTask& task) {
  if (task.m > 1) return run_blocked<Float>(task);
  switch (task.weight->type) {
    case WeightType::kF32: return multiply_vector_float<WeightType::kF32>(task);
    case WeightType::kF16: return multiply_vector_float<WeightType::kF16>(task);
    case WeightType::kBF16: return multiply_vector_float<WeightType::kBF16>(task);
    case WeightType::kQuantized: with_bits(task.weight->bits, [&]<int bits>() { multiply_vector<bits>(task); });
  }
}

}  // namespace autoglm::kernels::avx512
