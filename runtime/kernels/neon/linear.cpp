#include "runtime/kernels/blocked.h"
#include "runtime/kernels/neon/neon.h"
#include "runtime/kernels/neon/simd.h"

namespace autoglm::kernels::neon {
namespace {

/// 4 elements of a float weight; `count` of them are there, the others are zero.
template <WeightType type>
float32x4_t load_floats(const std::byte* at, int64_t count) {
  if constexpr (type == WeightType::kF32) return Simd::load(reinterpret_cast<const float*>(at), count);
  return type == WeightType::kBF16 ? Simd::load_bf16(at, count) : Simd::load_f16(at, count);
}

/// One token and float weights: four rows side by side, each in two sums.
template <WeightType type>
void multiply_vector(const LinearTask& task) {
  constexpr int kRows = 4;
  constexpr int64_t kSize = type == WeightType::kF32 ? 4 : 2;
  const WeightView& view = *task.weight;
  for (int64_t row = task.first_row; row < task.last_row; row += kRows) {
    const std::byte* w[kRows];
    float32x4_t sums[kRows][2];
    for (int i = 0; i < kRows; ++i) {
      w[i] = view.values + smaller(row + i, view.rows - 1) * view.cols * kSize;
      sums[i][0] = sums[i][1] = Simd::zero();
    }
    for (int64_t col = 0; col < view.cols; col += 8) {
      for (int part = 0; part < 2; ++part) {
        const int64_t at = col + 4 * part, count = view.cols - at;
        if (count <= 0) break;
        const float32x4_t x = Simd::load(task.x + at, count);
        for (int i = 0; i < kRows; ++i) {
          sums[i][part] = vfmaq_f32(sums[i][part], load_floats<type>(w[i] + at * kSize, count), x);
        }
      }
    }
    for (int i = 0; i < kRows && row + i < task.last_row; ++i) {
      const float sum = Simd::sum(vaddq_f32(sums[i][0], sums[i][1]));
      task.y[row + i] = sum + (task.bias == nullptr ? 0 : task.bias[row + i]);
    }
  }
}

/// A panel holds real values, column after column, 16 rows each.
struct Float {
  static constexpr int64_t kPanelCols = 64;
  static constexpr int kTokens = 3;

  struct alignas(64) Panel {
    float columns[kPanelCols * kBlockRows];
  };

  template <int bits>
  static void fill_bits(const WeightView& view, int64_t block, int64_t first_col, int64_t last_col, Panel& panel) {
    for (int64_t col = first_col; col < last_col; col += kChunkCols) {
      for (int part = 0; part < 4; ++part) {
        float* to = panel.columns + (col - first_col) * kBlockRows + 4 * part;
        // A chunk has one scale, or one for each half of its columns.
        float32x4_t scales[2], shifts[2];
        for (int half = 0; half < 2; ++half) {
          const int64_t index = (block * view.groups + (col + 16 * half) / view.scale_cols) * kBlockRows + 4 * part;
          scales[half] = load_scales(view, index);
          shifts[half] = view.zeros == nullptr ? Simd::zero() : vmulq_f32(scales[half], load_zeros(view, index));
        }
        visit_quads<bits>(chunk_of(view, block, col), part, [&](int c, int8x16_t bytes) {
          const float32x4_t scale = scales[c / 16], shift = vnegq_f32(shifts[c / 16]);
          const int32x4_t q = vreinterpretq_s32_s8(bytes);
          const auto store = [&](int i, int32x4_t value) {
            const float32x4_t w = vcvtq_f32_s32(vshrq_n_s32(value, 24));
            vst1q_f32(to + (c + i) * kBlockRows, vfmaq_f32(shift, w, scale));
          };
          store(0, vshlq_n_s32(q, 24));
          store(1, vshlq_n_s32(q, 16));
          store(2, vshlq_n_s32(q, 8));
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
      for (int64_t col = first_col; col < last_col; col += 4) {
        float values[4];
        vst1q_f32(values, load_floats<type>(from + col * kSize, last_col - col));
        const int64_t count = smaller(4, last_col - col);
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
    float32x4_t y[8][T];  // rows 4i to 4i + 3
    for (int i = 0; i < 8; ++i) {
      for (int t = 0; t < T; ++t) y[i][t] = vld1q_f32(tile.sums + t * kPairRows + 4 * i);
    }
    for (int64_t k = 0; k < tile.last_col - tile.first_col; ++k) {
      float32x4_t values[T];
      for (int t = 0; t < T; ++t) values[t] = vld1q_dup_f32(x + t * task.x_stride + k);
      for (int i = 0; i < 8; ++i) {
        const float32x4_t w = vld1q_f32(panels[i / 4].columns + k * kBlockRows + i % 4 * 4);
        for (int t = 0; t < T; ++t) y[i][t] = vfmaq_f32(y[i][t], w, values[t]);
      }
    }
    for (int i = 0; i < 8; ++i) {
      for (int t = 0; t < T; ++t) vst1q_f32(tile.sums + t * kPairRows + 4 * i, y[i][t]);
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

}  // namespace autoglm::kernels::neon
