#include "runtime/kernels/amx/amx.h"
#include "runtime/kernels/amx/tiles.h"
#include "runtime/kernels/avx512/avx512.h"
#include "runtime/kernels/avx512/int8.h"

namespace autoglm::kernels::amx {
namespace {

/// Panels and roundings are those of the products without tiles. `step`: columns that are multiplied at once, 64, or 32
/// where a scale covers no more or the last 64 are not whole.
template <int step>
struct Int8 : avx512::Int8 {
  /// The sums of the products of columns [col, end).
  template <int tiles>
  static void multiply(const Tile& tile, const Panel (&panels)[2], int64_t col, int64_t end, Sums<int32_t>& sums) {
    const int64_t row = int8_row_bytes(*tile.task->weight);
    const int8_t* x = tile.task->xq + tile.first_token * row;
    zero_sums<tiles>();
    for (int64_t k = col; k < end; k += step) {
      const int64_t at = (k - tile.first_col) * kBlockRows;
      const int8_t* from = x + k / kTileRowBytes * kTileRowBytes * kTileTokens + k % kTileRowBytes;
      _tile_loadd(6, panels[0].quads + at, kVectorBytes);
      _tile_loadd(4, from, kTileRowBytes);
      _tile_dpbsud(0, 4, 6);
      _tile_loadd(7, panels[1].quads + at, kVectorBytes);
      _tile_dpbsud(1, 4, 7);
      if constexpr (tiles == 2) {
        _tile_loadd(5, from + row * kTileTokens, kTileRowBytes);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
      }
    }
    store_sums<tiles>(sums);
  }

  template <int tiles>
  static void panel(const Tile& tile, const Panel (&panels)[2], int64_t tokens) {
    const LinearTask& task = *tile.task;
    const WeightView& view = *task.weight;
    const int64_t sums_stride = view.packed_cols / 16 + 1;
    const int32_t* x_sums = task.x_sums + tile.first_token * sums_stride;
    const int offset = 1 << (view.bits - 1);
    Sums<int32_t> sums;
    for (int64_t col = tile.first_col, end = col; col < tile.last_col; col = end) {
      const int64_t group = col / view.scale_cols;
      end = smaller((group + 1) * view.scale_cols, tile.last_col);
      multiply<tiles>(tile, panels, col, end, sums);
      __m512 scale[2], shift[2];
      for (int i = 0; i < 2; ++i) {
        const int64_t index = (tile.block[i] * view.groups + group) * kBlockRows;
        scale[i] = avx512::load_scales(view, index);
        if (view.zeros != nullptr) shift[i] = _mm512_mul_ps(scale[i], avx512::load_zeros(view, index));
      }
      for (int64_t t = 0; t < tokens; ++t) {
        const int32_t x_sum = x_sums[t * sums_stride + end / 16] - x_sums[t * sums_stride + col / 16];
        const __m512i taken_off = _mm512_set1_epi32(offset * x_sum);
        for (int i = 0; i < 2; ++i) {
          const __m512i sum = _mm512_sub_epi32(_mm512_load_si512(sums.at[i][t]), taken_off);
          float* to = tile.sums + t * kPairRows + i * kBlockRows;
          __m512 y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale[i], _mm512_load_ps(to));
          if (view.zeros != nullptr) y = _mm512_fnmadd_ps(shift[i], _mm512_set1_ps(static_cast<float>(x_sum)), y);
          _mm512_store_ps(to, y);
        }
      }
    }
  }
};

}  // namespace

bool wants_int8_tiles(const WeightView& weight, int64_t m) {
  return m >= kLeastTokens && weight.scale_cols % kChunkCols == 0;
}

void linear_int8(const LinearTask& task) {
  const WeightView& view = *task.weight;
  if (!wants_int8_tiles(view, task.m)) return avx512::linear_int8(task);
  const bool whole = view.scale_cols % 64 == 0 && view.packed_cols % 64 == 0;
  whole ? run_on_tiles<Int8<64>, 64>(task) : run_on_tiles<Int8<32>, 32>(task);
}

}  // namespace autoglm::kernels::amx
