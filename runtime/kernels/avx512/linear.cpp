#include "runtime/kernels/avx512/avx512.h"
#include "runtime/kernels/avx512/unpack.h"
#include "runtime/kernels/blocked.h"

namespace autoglm::kernels::avx512 {
namespace {

/// One token: weights go from memory through registers, two blocks side by side.
template <int bits>
void multiply_vector(const LinearTask& task) {
  const WeightView& view = *task.weight;
  const int64_t last_block = (view.rows - 1) / kBlockRows;
  const __m512 values = table<bits>();
  for (int64_t row = task.first_row; row < task.last_row; row += kPairRows) {
    const int64_t block[2] = {row / kBlockRows, smaller(row / kBlockRows + 1, last_block)};
    __m512 y[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int64_t group = 0; group < view.groups; ++group) {
      const int64_t first = group * view.scale_cols, last = smaller(first + view.scale_cols, view.packed_cols);
      __m512 sums[2][2] = {{_mm512_setzero_ps(), _mm512_setzero_ps()}, {_mm512_setzero_ps(), _mm512_setzero_ps()}};
      for (int64_t col = first; col < last;) {
        for (int i = 0; i < 2; ++i) {
          const std::byte* chunk = chunk_of(view, block[i], col);
          const float* x = task.x + col / kChunkCols * kChunkCols;
          const auto add = [&](int c, __m512 w) {
            sums[i][c & 1] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[c]), sums[i][c & 1]);
          };
          if (view.scale_cols == 16) {
            visit_half<bits>(chunk, col % kChunkCols != 0, values, add);
          } else {
            prefetch<bits * kVectorBytes>(chunk);
            visit_chunk<bits>(chunk, values, add);
          }
        }
        col += view.scale_cols == 16 ? 16 : kChunkCols;
      }
      float x_sum = 0;
      if (view.zeros != nullptr) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t col = first; col < last; col += 16) sum = _mm512_add_ps(sum, _mm512_loadu_ps(task.x + col));
        x_sum = _mm512_reduce_add_ps(sum);
      }
      for (int i = 0; i < 2; ++i) {
        const int64_t index = (block[i] * view.groups + group) * kBlockRows;
        __m512 sum = _mm512_add_ps(sums[i][0], sums[i][1]);
        if (view.zeros != nullptr) sum = _mm512_fnmadd_ps(load_zeros(view, index), _mm512_set1_ps(x_sum), sum);
        y[i] = _mm512_fmadd_ps(sum, load_scales(view, index), y[i]);
      }
    }
    for (int i = 0; i < 2; ++i) {
      const int64_t at = row + i * kBlockRows;
      if (at >= task.last_row) break;
      const __mmask16 rows = lanes(task.last_row - at);
      if (task.bias != nullptr) y[i] = _mm512_add_ps(y[i], _mm512_maskz_loadu_ps(rows, task.bias + at));
      _mm512_mask_storeu_ps(task.y + at, rows, y[i]);
    }
  }
}

/// 16 elements of a float weight from byte address `at`, those beyond `mask` zero.
template <WeightType type>
inline __m512 load_floats(const std::byte* at, __mmask16 mask) {
  if constexpr (type == WeightType::kF32) return _mm512_maskz_loadu_ps(mask, at);
  const __m256i halves = _mm256_maskz_loadu_epi16(mask, at);
  return type == WeightType::kBF16 ? from_bf16(halves) : _mm512_cvtph_ps(halves);
}

/// One token and float weights: four rows side by side, two sums each.
template <WeightType type>
void multiply_vector_float(const LinearTask& task) {
  constexpr int kRows = 4;
  constexpr int64_t kSize = type == WeightType::kF32 ? 4 : 2;
  const WeightView& view = *task.weight;
  for (int64_t row = task.first_row; row < task.last_row; row += kRows) {
    const std::byte* w[kRows];
    for (int i = 0; i < kRows; ++i) w[i] = view.values + smaller(row + i, view.rows - 1) * view.cols * kSize;
    __m512 sums[kRows][2];
    for (auto& sum : sums) sum[0] = sum[1] = _mm512_setzero_ps();
    int64_t col = 0;
    for (; col + 32 <= view.cols; col += 32) {
      for (int half = 0; half < 2; ++half) {
        const __m512 x = _mm512_loadu_ps(task.x + col + 16 * half);
        for (int i = 0; i < kRows; ++i) {
          const __m512 values = load_floats<type>(w[i] + (col + 16 * half) * kSize, 0xFFFF);
          sums[i][half] = _mm512_fmadd_ps(values, x, sums[i][half]);
        }
      }
    }
    for (; col < view.cols; col += 16) {
      const __mmask16 mask = lanes(view.cols - col);
      const __m512 x = _mm512_maskz_loadu_ps(mask, task.x + col);
      for (int i = 0; i < kRows; ++i) {
        sums[i][0] = _mm512_fmadd_ps(load_floats<type>(w[i] + col * kSize, mask), x, sums[i][0]);
      }
    }
    for (int i = 0; i < kRows && row + i < task.last_row; ++i) {
      task.y[row + i] =
          _mm512_reduce_add_ps(_mm512_add_ps(sums[i][0], sums[i][1])) + (task.bias == nullptr ? 0 : task.bias[row + i]);
    }
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
