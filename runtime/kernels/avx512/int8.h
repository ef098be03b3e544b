#pragma once
/// The INT8 product of several tokens with vpdpbusd, whose panels amx/ takes too.
#include <utility>

#include "runtime/kernels/avx512/simd.h"
#include "runtime/kernels/blocked.h"

namespace autoglm::kernels::avx512 {
namespace {

/// Each vpdpbusd multiplies the unsigned bytes of four columns of 16 rows by four signed ones of a token. What makes
/// weights unsigned, 2^(bits-1), is taken off by starting from -2^(bits-1) * sum(x).
struct Int8 {
  static constexpr int64_t kPanelCols = 256;
  static constexpr int kTokens = 6;

  struct alignas(64) Panel {
    uint8_t bytes[kPanelCols * kBlockRows];
    const std::byte* quads;  ///< `bytes`, or 8-bit weights where they are
  };

  template <int bits>
  static void fill_bits(const WeightView& view, int64_t block, int64_t first_col, int64_t last_col, Panel& panel) {
    const int64_t chunk_bytes = bits * kVectorBytes;
    const std::byte* chunk = view.values + (block * view.packed_cols + first_col) / kChunkCols * chunk_bytes;
    if constexpr (bits == 8) {
      panel.quads = chunk;
      return;
    }
    panel.quads = reinterpret_cast<const std::byte*>(panel.bytes);
    uint8_t* to = panel.bytes;
    for (int64_t col = first_col; col < last_col; col += kChunkCols, chunk += chunk_bytes) {
      unpack_into<bits>(chunk, to, std::make_integer_sequence<int, 8>());
      to += kChunkCols * kBlockRows;
    }
  }

  template <int bits, int... quads>
  static void unpack_into(const std::byte* chunk, uint8_t* to, std::integer_sequence<int, quads...>) {
    (_mm512_store_si512(to + quads * kVectorBytes, unpack_quad<bits, quads>(chunk)), ...);
  }

  static void fill(const WeightView& view, int64_t block, int64_t first_col, int64_t last_col, Panel& panel) {
    with_bits(view.bits, [&]<int bits>() { fill_bits<bits>(view, block, first_col, last_col, panel); });
  }

  template <int T>
  static void tile(const Tile& tile, const Panel (&panels)[2]) {
    const LinearTask& task = *tile.task;
    const WeightView& view = *task.weight;
    const int8_t* x = task.xq + tile.first_token * view.packed_cols;
    const int64_t sums_stride = view.packed_cols / 16 + 1;
    const int32_t* x_sums = task.x_sums + tile.first_token * sums_stride;
    const int offset = 1 << (view.bits - 1);
    __m512 y[2][T];
    for (int i = 0; i < 2; ++i) {
      for (int t = 0; t < T; ++t) y[i][t] = _mm512_load_ps(tile.sums + t * kPairRows + i * kBlockRows);
    }
    for (int64_t col = tile.first_col, end = col; col < tile.last_col; col = end) {
      const int64_t group = col / view.scale_cols;
      end = smaller((group + 1) * view.scale_cols, tile.last_col);
      int32_t x_sum[T];
      __m512i sums[2][T];
      for (int t = 0; t < T; ++t) {
        x_sum[t] = x_sums[t * sums_stride + end / 16] - x_sums[t * sums_stride + col / 16];
        sums[0][t] = sums[1][t] = _mm512_set1_epi32(-offset * x_sum[t]);
      }
      for (int64_t k = col; k < end; k += 4) {
        const int64_t at = (k - tile.first_col) * kBlockRows;
        const __m512i w0 = _mm512_loadu_si512(panels[0].quads + at), w1 = _mm512_loadu_si512(panels[1].quads + at);
        for (int t = 0; t < T; ++t) {
          int32_t quad;
          __builtin_memcpy(&quad, x + t * view.packed_cols + k, sizeof quad);
          const __m512i four = _mm512_set1_epi32(quad);
          sums[0][t] = _mm512_dpbusd_epi32(sums[0][t], w0, four);
          sums[1][t] = _mm512_dpbusd_epi32(sums[1][t], w1, four);
        }
      }
      for (int i = 0; i < 2; ++i) {
        const int64_t index = (tile.block[i] * view.groups + group) * kBlockRows;
        const __m512 scale = load_scales(view, index);
        for (int t = 0; t < T; ++t) y[i][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i][t]), scale, y[i][t]);
        if (view.zeros == nullptr) continue;
        const __m512 shift = _mm512_mul_ps(scale, load_zeros(view, index));
        for (int t = 0; t < T; ++t) {
          y[i][t] = _mm512_fnmadd_ps(shift, _mm512_set1_ps(static_cast<float>(x_sum[t])), y[i][t]);
        }
      }
    }
    for (int i = 0; i < 2; ++i) {
      for (int t = 0; t < T; ++t) _mm512_store_ps(tile.sums + t * kPairRows + i * kBlockRows, y[i][t]);
    }
  }

  static float factor(const LinearTask& task, int64_t token) { return task.x_scales[token]; }
};

}  // namespace
}  // namespace autoglm::kernels::avx512
