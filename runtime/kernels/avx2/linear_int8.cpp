#include "runtime/kernels/avx2/avx2.h"
#include "runtime/kernels/avx2/simd.h"
#include "runtime/kernels/blocked.h"

namespace autoglm::kernels::avx2 {
namespace {

/// A panel holds q as signed bytes, [column / 4][16 rows][4]. Both sides are widened to 16 bits and multiplied by
/// vpmaddwd: products of bytes added up in 16 bits (vpmaddubsw) would saturate.
struct Int8 {
  static constexpr int64_t kPanelCols = 256;
  static constexpr int kTokens = 2;

  struct alignas(64) Panel {
    int8_t bytes[kPanelCols * kBlockRows];
  };

  static void fill(const WeightView& view, int64_t block, int64_t first_col, int64_t last_col, Panel& panel) {
    with_bits(view.bits, [&]<int bits>() {
      for (int64_t col = first_col; col < last_col; col += kChunkCols) {
        for (int half = 0; half < 2; ++half) {
          int8_t* to = panel.bytes + (col - first_col) * kBlockRows + 32 * half;
          visit_quads<bits>(chunk_of(view, block, col), half, [&](int c, __m256i q) {
            _mm256_store_si256(reinterpret_cast<__m256i*>(to + c * kBlockRows), q);
          });
        }
      }
    });
  }

  /// Columns 4k to 4k+3 of a token in 16 bits, repeated.
  static __m256i four(const int8_t* x) {
    int32_t quad;
    __builtin_memcpy(&quad, x, sizeof quad);
    return _mm256_cvtepi8_epi16(_mm_set1_epi32(quad));
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
      __m256i sums[T][4];  // of rows 4i to 4i + 3, each in two parts
      for (int t = 0; t < T; ++t) {
        for (int i = 0; i < 4; ++i) sums[t][i] = _mm256_setzero_si256();
      }
      for (int64_t k = col; k < end; k += 4) {
        const int8_t* from = panel + (k - tile.first_col) * kBlockRows;
        __m256i w[4];
        for (int i = 0; i < 4; ++i) w[i] = _mm256_cvtepi8_epi16(load128(from + 16 * i));
        for (int t = 0; t < T; ++t) {
          const __m256i value = four(x + t * view.packed_cols + k);
          for (int i = 0; i < 4; ++i) sums[t][i] = _mm256_add_epi32(sums[t][i], _mm256_madd_epi16(w[i], value));
        }
      }
      for (int half = 0; half < 2; ++half) {
        const int64_t index = (block * view.groups + group) * kBlockRows + 8 * half;
        const __m256 scale = load_scales(view, index);
        for (int t = 0; t < T; ++t) {
          // Adding neighbours leaves the rows 0 1 4 5 2 3 6 7.
          const __m256i mixed = _mm256_hadd_epi32(sums[t][2 * half], sums[t][2 * half + 1]);
          __m256 sum = _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(mixed, 0xD8));
          if (view.zeros != nullptr) {
            const int32_t x_sum = x_sums[t * sums_stride + end / 16] - x_sums[t * sums_stride + col / 16];
            sum = _mm256_fnmadd_ps(load_zeros(view, index), _mm256_set1_ps(static_cast<float>(x_sum)), sum);
          }
          float* to = y + t * kPairRows + 8 * half;
          _mm256_store_ps(to, _mm256_fmadd_ps(sum, scale, _mm256_load_ps(to)));
        }
      }
    }
  }

  static float factor(const LinearTask& task, int64_t token) { return task.x_scales[token]; }
};

}  // namespace

void linear_int8(const LinearTask& task) { run_blocked<Int8>(task); }

}  // namespace autoglm::kernels::avx2
