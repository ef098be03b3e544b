#include "runtime/kernels/avx2/avx2.h"
#include "runtime/kernels/avx2/simd.h"
#include "runtime/kernels/blocked.h"

namespace autoglm::kernels::avx2 {
namespace {

/// 8 elements of a float weight; `count` of them are there, the others are zero.
template <WeightType type>
__m256 load_floats(const std::byte* at, int64_t count) {
  if constexpr (type == WeightType::kF32) return Simd::load(reinterpret_cast<const float*>(at), count);
  return type == WeightType::kBF16 ? Simd::load_bf16(at, count) : Simd::load_f16(at, count);
}

/// One token and float weights: four rows side by side.
template <WeightType type>
void multiply_vector(const LinearTask& task) {
  constexpr int kRows = 4;
  constexpr int64_t kSize = type == WeightType::kF32 ? 4 : 2;
  const WeightView& view = *task.weight;
  for (int64_t row = task.first_row; row < task.last_row; row += kRows) {
    const std::byte* w[kRows];
    __m256 sums[kRows];
    for (int i = 0; i < kRows; ++i) {
      w[i] = view.values + smaller(row + i, view.rows - 1) * view.cols * kSize;
      sums[i] = _mm256_setzero_ps();
    }
    for (int64_t col = 0; col < view.cols; col += 8) {
      const int64_t count = view.cols - col;
      const __m256 x = Simd::load(task.x + col, count);
      for (int i = 0; i < kRows; ++i) {
        sums[i] = _mm256_fmadd_ps(load_floats<type>(w[i] + col * kSize, count), x, sums[i]);
      }
    }
    for (int i = 0; i < kRows && row + i < task.last_row; ++i) {
      task.y[row + i] = Simd::sum(sums[i]) + (task.bias == nullptr ? 0 : task.bias[row + i]);
    }
  }
}

/// A panel holds real values, column after column, 16 rows each.
struct Float {
  static constexpr int64_t kPanelCols = 128;
  static constexpr int kTokens = 3;

  struct alignas(64) Panel {
    float columns[kPanelCols * kBlockRows];
  };

  template <int bits>
  static void fill_bits(const WeightView& view, int64_t block, int64_t first_col, int64_t last_col, Panel& panel) {
    for (int64_t col = first_col; col < last_col; col += kChunkCols) {
      for (int half = 0; half < 2; ++half) {
        float* to = panel.columns + (col - first_col) * kBlockRows + 8 * half;
        // A chunk has one scale, or one for each half of its columns.
        __m256 scales[2], shifts[2];
        for (int part = 0; part < 2; ++part) {
          const int64_t index = (block * view.groups + (col + 16 * part) / view.scale_cols) * kBlockRows + 8 * half;
          scales[part] = load_scales(view, index);
          shifts[part] =
              view.zeros == nullptr ? _mm256_setzero_ps() : _mm256_mul_ps(scales[part], load_zeros(view, index));
        }
        visit_quads<bits>(chunk_of(view, block, col), half, [&](int c, __m256i q) {
          const __m256 scale = scales[c / 16], shift = shifts[c / 16];
          const auto store = [&](int i, __m256i value) {
            const __m256 w = _mm256_cvtepi32_ps(_mm256_srai_epi32(value, 24));
            _mm256_store_ps(to + (c + i) * kBlockRows, _mm256_fmsub_ps(w, scale, shift));
          };
          store(0, _mm256_slli_epi32(q, 24));
          store(1, _mm256_slli_epi32(q, 16));
          store(2, _mm256_slli_epi32(q, 8));
          store(3, q);
        });
      }
    }
  }

  template <WeightType type>
  static void fill_float(const WeightView& view, int64_t block, int64_t first_col, int64_t last_col, Panel& panel) {
    constexpr int64_t kSize = type == WeightType::kF32 ? 4 : 2;
    const int64_t rows = smaller(kBlockRows, view.rows - block * kBlockRows);
    for (int64_t i = 0; i < kBlockRows; ++i) {
      const std::byte* from = view.values + (block * kBlockRows + (i < rows ? i : 0)) * view.cols * kSize;
      for (int64_t col = first_col; col < last_col; col += 8) {
        alignas(32) float values[8];
        _mm256_store_ps(values, load_floats<type>(from + col * kSize, last_col - col));
        const int64_t count = smaller(8, last_col - col);
        for (int64_t k = 0; k < count; ++k) panel.columns[(col - first_col + k) * kBlockRows + i] = values[k];
      }
    }
  }

  static void fill(const WeightView& view, int64_t block, int64_t first_col, int64_t last_col, Panel& panel) {
    fill_floats<Float>(view, block, first_col, last_col, panel);
  }

  template <int T>
  static void tile(const Tile& tile, const Panel (&panels)[2]) {
    const LinearTask& task = *tile.task;
    const float* x = task.x + tile.first_token * task.x_stride + tile.first_col;
    __m256 y[4][T];  // rows 8i to 8i + 7
    for (int i = 0; i < 4; ++i) {
      for (int t = 0; t < T; ++t) y[i][t] = _mm256_load_ps(tile.sums + t * kPairRows + 8 * i);
    }
    for (int64_t k = 0; k < tile.last_col - tile.first_col; ++k) {
      for (int t = 0; t < T; ++t) {
        const __m256 value = _mm256_broadcast_ss(x + t * task.x_stride + k);
        for (int i = 0; i < 4; ++i) {
          const __m256 w = _mm256_load_ps(panels[i / 2].columns + k * kBlockRows + i % 2 * 8);
          y[i][t] = _mm256_fmadd_ps(w, value, y[i][t]);
        }
      }
    }
    for (int i = 0; i < 4; ++i) {
      for (int t = 0; t < T; ++t) _mm256_store_ps(tile.sums + t * kPairRows + 8 * i, y[i][t]);
    }
  }

  static float factor(const LinearTask&, int64_t) { return 1; }
};

}  // namespace

void linear(const LinearTask& task) {
  const WeightType type = task.weight->type;
  if (task.m > 1 || type == WeightType::kQuantized) return run_blocked<Float>(task);
  switch (type) {
    case WeightType::kF16: return multiply_vector<WeightType::kF16>(task);
    case WeightType::kBF16: return multiply_vector<WeightType::kBF16>(task);
    default: return multiply_vector<WeightType::kF32>(task);
  }
}

}  // namespace autoglm::kernels::avx2
