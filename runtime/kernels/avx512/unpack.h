#pragma once
/// Elements of a packed weight as floats, column after column, 16 rows each.
#include <utility>

#include "runtime/kernels/avx512/simd.h"
#include "runtime/kernels/blocked.h"

namespace autoglm::kernels::avx512 {
namespace {

/// u - 2^(bits-1) as floats. Up to 4 bits it is looked up: vpermps takes the low 4 bits of a lane, whatever lies above,
/// and the table repeats with the period 2^bits, so that nothing needs to be masked.
template <int bits>
constexpr bool kLooksUp = bits <= 4;

template <int bits>
inline __m512 table() {
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

/// Turns 16 vectors of 16 columns into 16 vectors of 16 rows, at out + 16 * column.
inline void transpose(const __m512 (&in)[16], float* out) {
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

}  // namespace
}  // namespace autoglm::kernels::avx512
