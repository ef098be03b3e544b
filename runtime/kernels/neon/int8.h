#pragma once
/// The INT8 product for any way to multiply four bytes and add them up.
#include "runtime/kernels/blocked.h"
#include "runtime/kernels/neon/simd.h"

namespace autoglm::kernels::neon {
namespace {

/// A panel holds q as signed bytes, [column / 4][16 rows][4]. Dot::add(sums, w, x): sums of 4 rows plus the products of
/// their four columns with the four values that x repeats.
template <class Dot>
struct Int8 {
  static constexpr int64_t kPanelCols = 256;
  static constexpr int kTokens = 4;

  struct alignas(64) Panel {
    int8_t bytes[kPanelCols * kBlockRows];
  };

  static void fill(const WeightView& view, int64_t block, int64_t first_col, int64_t last_col, Panel& panel) {
    with_bits(view.bits, [&]<int bits>() {
      for (int64_t col = first_col; col < last_col; col += kChunkCols) {
        for (int part = 0; part < 4; ++part) {
          int8_t* to = panel.bytes + (col - first_col) * kBlockRows + 16 * part;
          visit_quads<bits>(chunk_of(view, block, col), part,
                            [&](int c, int8x16_t q) { vst1q_s8(to + c * kBlockRows, q); });
        }
      }
    });
  }

  /// Columns 4k to 4k+3 of a token, repeated.
  static int8x16_t four(const int8_t* x) {
    int32_t quad;
    __builtin_memcpy(&quad, x, sizeof quad);
    return vreinterpretq_s8_s32(vdupq_n_s32(quad));
  }

  template <int T>
  static void tile(const Tile& tile, const Panel (&panels)[2]) {
    for (int i = 0; i < 2; ++i) {
      multiply_block<T>(tile, panels[i].bytes, tile.block[i], tile.sums + i * kBlockRows);
    }
  }

  template <int T>
  static void multiply_block(const Tile& tile, const int8_t* panel, int64_t block, float* y) {
    const LinearTask& task = *tile.task;
    const WeightView& view = *task.weight;
    const int8_t* x = task.xq + tile.first_token * view.packed_cols;
    const int64_t sums_stride = view.packed_cols / 16 + 1;
    const int32_t* x_sums = task.x_sums + tile.first_token * sums_stride;
    for (int64_t col = tile.first_col, end = col; col < tile.last_col; col = end) {
      const int64_t group = col / view.scale_cols;
      end = smaller((group + 1) * view.scale_cols, tile.last_col);
      int32x4_t sums[T][4];  // of rows 4i to 4i + 3
      for (int t = 0; t < T; ++t) {
        for (int i = 0; i < 4; ++i) sums[t][i] = vdupq_n_s32(0);
      }
      for (int64_t k = col; k < end; k += 4) {
        const int8_t* from = panel + (k - tile.first_col) * kBlockRows;
        int8x16_t w[4];
        for (int i = 0; i < 4; ++i) w[i] = vld1q_s8(from + 16 * i);
        for (int t = 0; t < T; ++t) {
          const int8x16_t value = four(x + t * view.packed_cols + k);
          for (int i = 0; i < 4; ++i) sums[t][i] = Dot::add(sums[t][i], w[i], value);
        }
      }
      for (int i = 0; i < 4; ++i) {
        const int64_t index = (block * view.groups + group) * kBlockRows + 4 * i;
        const float32x4_t scale = load_scales(view, index);
        for (int t = 0; t < T; ++t) {
          float32x4_t sum = vcvtq_f32_s32(sums[t][i]);
          if (view.zeros != nullptr) {
            const int32_t x_sum = x_sums[t * sums_stride + end / 16] - x_sums[t * sums_stride + col / 16];
            sum = vfmsq_f32(sum, load_zeros(view, index), vdupq_n_f32(static_cast<float>(x_sum)));
          }
          float* to = y + t * kPairRows + 4 * i;
          vst1q_f32(to, vfmaq_f32(vld1q_f32(to), sum, scale));
        }
      }
    }
  }

  static float factor(const LinearTask& task, int64_t token) { return task.x_scales[token]; }
};

}  // namespace
}  // namespace autoglm::kernels::neon
