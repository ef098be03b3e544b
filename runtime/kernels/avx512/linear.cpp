#include <utility>

#include "runtime/kernels/avx512/avx512.h"
#include "runtime/kernels/avx512/simd.h"
#include "runtime/kernels/blocked.h"

namespace autoglm::kernels::avx512 {
namespace {

/// u - 2^(bits-1) as floats. Up to 4 bits it is looked up: vpermps takes the low 4 bits of a lane, whatever lies above,
/// and the table repeats with the period 2^bits, so that nothing needs to be masked.
template <int bits>
constexpr bool kLooksUp = bits <= 4;

template <int bits>
__m512 table() {
  alignas(64) float values[16];
  for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(i % (1 << bits) - (1 << (bits - 1)));
  return _mm512_load_ps(values);
}

/// Calls `visit(column, value)` for the columns of quads [first, last) of a chunk, 16 rows each.
template <int bits, int quad, class Visit>
inline void visit_quad(const std::byte* chunk, __m512 table, const Visit& visit) {
  if constexpr (bits == 1 || bits == 2 || bits == 4) {  // one plane: straight from its lanes
    constexpr int kFields = 8 / bits, kShift = quad % kFields * bits;
    const __m512i lane = _mm512_loadu_si512(chunk + quad / kFields * kVectorBytes);
    visit(4 * quad, _mm512_permutexvar_ps(move_field<kShift, 0>(lane), table));
    visit(4 * quad + 1, _mm512_permutexvar_ps(move_field<kShift + 8, 0>(lane), table));
    visit(4 * quad + 2, _mm512_permutexvar_ps(move_field<kShift + 16, 0>(lane), table));
    visit(4 * quad + 3, _mm512_permutexvar_ps(move_field<kShift + 24, 0>(lane), table));
  } else if constexpr (kLooksUp<bits>) {
    const __m512i u = unpack_quad<bits, quad>(chunk);
    visit(4 * quad, _mm512_permutexvar_ps(u, table));
    visit(4 * quad + 1, _mm512_permutexvar_ps(_mm512_srli_epi32(u, 8), table));
    visit(4 * quad + 2, _mm512_permutexvar_ps(_mm512_srli_epi32(u, 16), table));
    visit(4 * quad + 3, _mm512_permutexvar_ps(_mm512_srli_epi32(u, 24), table));
  } else {
    const __m512i q =
        _mm512_sub_epi8(unpack_quad<bits, quad>(chunk), _mm512_set1_epi8(static_cast<char>(1 << (bits - 1))));
    visit(4 * quad, _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(q, 24), 24)));
    visit(4 * quad + 1, _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(q, 16), 24)));
    visit(4 * quad + 2, _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(q, 8), 24)));
    visit(4 * quad + 3, _mm512_cvtepi32_ps(_mm512_srai_epi32(q, 24)));
  }
}

template <int bits, int first, class Visit, int... quads>
inline void visit_quads(const std::byte* chunk, __m512 table, const Visit& visit,
                        std::integer_sequence<int, quads...>) {
  (visit_quad<bits, first + quads>(chunk, table, visit), ...);
}

/// All 32 columns of a chunk, or one half where scales cover 16.
template <int bits, class Visit>
inline void visit_chunk(const std::byte* chunk, __m512 table, const Visit& visit) {
  visit_quads<bits, 0>(chunk, table, visit, std::make_integer_sequence<int, 8>());
}
template <int bits, class Visit>
inline void visit_half(const std::byte* chunk, bool upper, __m512 table, const Visit& visit) {
  if (upper) {
    visit_quads<bits, 4>(chunk, table, visit, std::make_integer_sequence<int, 4>());
  } else {
    visit_quads<bits, 0>(chunk, table, visit, std::make_integer_sequence<int, 4>());
  }
}

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

/// Turns 16 vectors of 16 columns into 16 vectors of 16 rows, at out + 16 * column.
void transpose(const __m512 (&in)[16], float* out) {
  __m512 pairs[16], quads[16], halves[16];
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_ps(in[i], in[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_ps(in[i], in[i + 1]);
  }
  // Vector 4 * i + c holds of rows 4 * i to 4 * i + 3 the columns c, c + 4, c + 8, c + 12.
  for (int i = 0; i < 16; i += 4) {
    quads[i] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
    quads[i + 1] = _mm512_shuffle_ps(pairs[i], pairs[i + 2], 0xEE);
    quads[i + 2] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
    quads[i + 3] = _mm512_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xEE);
  }
  for (int c = 0; c < 4; ++c) {
    halves[c] = _mm512_shuffle_f32x4(quads[c], quads[4 + c], 0x88);      // columns c, c + 8 of rows 0 to 7
    halves[4 + c] = _mm512_shuffle_f32x4(quads[c], quads[4 + c], 0xDD);  // columns c + 4, c + 12
    halves[8 + c] = _mm512_shuffle_f32x4(quads[8 + c], quads[12 + c], 0x88);
    halves[12 + c] = _mm512_shuffle_f32x4(quads[8 + c], quads[12 + c], 0xDD);
  }
  for (int c = 0; c < 4; ++c) {
    _mm512_store_ps(out + 16 * c, _mm512_shuffle_f32x4(halves[c], halves[8 + c], 0x88));
    _mm512_store_ps(out + 16 * (c + 8), _mm512_shuffle_f32x4(halves[c], halves[8 + c], 0xDD));
    _mm512_store_ps(out + 16 * (c + 4), _mm512_shuffle_f32x4(halves[4 + c], halves[12 + c], 0x88));
    _mm512_store_ps(out + 16 * (c + 12), _mm512_shuffle_f32x4(halves[4 + c], halves[12 + c], 0xDD));
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
