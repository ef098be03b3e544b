#include "runtime/kernels/amx/amx.h"
#include "runtime/kernels/amx/tiles.h"
#include "runtime/kernels/avx512/unpack.h"
#include "runtime/kernels/avx512_bf16/avx512_bf16.h"

namespace autoglm::kernels::amx {
namespace {

constexpr int kStep = 32;  // columns

/// A panel holds BF16, [column / 2][16 rows][2]: the weights themselves, or q - zero, whose size is at most 255 and
/// which is therefore exact. Scales multiply sums.
struct Split {
  static constexpr int64_t kPanelCols = 256;

  struct alignas(64) Panel {
    std::byte pairs[kPanelCols * kBlockRows * 2];
  };

  template <int bits>
  static void fill_bits(const WeightView& view, int64_t block, int64_t first_col, int64_t last_col, Panel& panel) {
    const __m512 values = avx512::table<bits>();
    for (int64_t col = first_col; col < last_col; col += kChunkCols) {
      const int64_t index = (block * view.groups + col / view.scale_cols) * kBlockRows;
      const __m512 zeros = view.zeros == nullptr ? _mm512_setzero_ps() : avx512::load_zeros(view, index);
      std::byte* to = panel.pairs + (col - first_col) * kBlockRows * 2;
      __m512i even = _mm512_setzero_si512();
      avx512::visit_chunk<bits>(chunk_of(view, block, col), values, [&](int c, __m512 w) {
        const __m512i value = _mm512_castps_si512(_mm512_sub_ps(w, zeros));  // the lower half is zero
        if (c % 2 == 0) {
          even = _mm512_srli_epi32(value, 16);
        } else {
          _mm512_store_si512(to + c / 2 * kVectorBytes, _mm512_or_si512(even, value));
        }
      });
    }
  }

  static void fill_bf16(const WeightView& view, int64_t block, int64_t first_col, int64_t last_col, Panel& panel) {
    const int64_t rows = smaller(kBlockRows, view.rows - block * kBlockRows);
    for (int64_t col = first_col; col < last_col; col += kStep) {
      const int64_t left = last_col - col;
      const __mmask32 mask = left >= kStep ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
      __m512 in[kBlockRows];
      for (int64_t i = 0; i < kBlockRows; ++i) {
        const std::byte* from = view.values + ((block * kBlockRows + (i < rows ? i : 0)) * view.cols + col) * 2;
        in[i] = _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(i < rows ? mask : 0, from));
      }
      avx512::transpose(in, reinterpret_cast<float*>(panel.pairs + (col - first_col) * kBlockRows * 2));
    }
  }

  static void fill(const WeightView& view, int64_t block, int64_t first_col, int64_t last_col, Panel& panel) {
    if (view.type == WeightType::kBF16) return fill_bf16(view, block, first_col, last_col, panel);
    with_bits(view.bits, [&]<int bits>() { fill_bits<bits>(view, block, first_col, last_col, panel); });
  }

  /// The sums of the products of columns [col, end); both parts of x meet the same weights.
  template <int tiles>
  static void multiply(const Tile& tile, const Panel (&panels)[2], int64_t col, int64_t end, Sums<float>& sums) {
    const int64_t row = split_row_bytes(*tile.task->weight), part = row / 2;
    const std::byte* x = tile.task->x_parts + tile.first_token * row;
    zero_sums<tiles>();
    for (int64_t k = col; k < end; k += kStep) {
      const int64_t at = (k - tile.first_col) * kBlockRows * 2;
      _tile_loadd(6, panels[0].pairs + at, kVectorBytes);
      _tile_loadd(7, panels[1].pairs + at, kVectorBytes);
      for (int i = 1; i >= 0; --i) {  // the smaller part first
        const std::byte* from = x + (i * part + k * 2) * kTileTokens;
        _tile_loadd(4, from, kTileRowBytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (tiles == 2) {
          _tile_loadd(5, from + row * kTileTokens, kTileRowBytes);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        }
      }
    }
    store_sums<tiles>(sums);
  }

  template <int tiles>
  static void panel(const Tile& tile, const Panel (&panels)[2], int64_t tokens) {
    const WeightView& view = *tile.task->weight;
    Sums<float> sums;
    for (int64_t col = tile.first_col, end = col; col < tile.last_col; col = end) {
      const bool scaled = view.type == WeightType::kQuantized;
      const int64_t group = scaled ? col / view.scale_cols : 0;
      end = scaled ? smaller((group + 1) * view.scale_cols, tile.last_col) : tile.last_col;
      multiply<tiles>(tile, panels, col, end, sums);
      for (int i = 0; i < 2; ++i) {
        const __m512 scale =
            scaled ? avx512::load_scales(view, (tile.block[i] * view.groups + group) * kBlockRows) : _mm512_set1_ps(1);
        for (int64_t t = 0; t < tokens; ++t) {
          float* to = tile.sums + t * kPairRows + i * kBlockRows;
          _mm512_store_ps(to, _mm512_fmadd_ps(_mm512_load_ps(sums.at[i][t]), scale, _mm512_load_ps(to)));
        }
      }
    }
  }

  static float factor(const LinearTask&, int64_t) { return 1; }
};

}  // namespace

SplitInput wants_split(const WeightView& weight, int64_t m) {
  const bool fits =
      weight.type == WeightType::kQuantized ? weight.scale_cols % kStep == 0 : weight.type == WeightType::kBF16;
  return m >= kLeastTokens && fits ? SplitInput::kTiles : avx512_bf16::wants_split(weight, m);
}

void linear_split(const LinearTask& task) {
  if (wants_split(*task.weight, task.m) == SplitInput::kRows) return avx512_bf16::linear_split(task);
  run_on_tiles<Split, kStep * 2>(task);
}

}  // namespace autoglm::kernels::amx
