#pragma once
/// Vectors of 16 floats: what the files of this folder share. Everything is static: each file has its own copy.
#include <immintrin.h>

#include <cstdint>

#include "runtime/kernels/kernels.h"

namespace autoglm::kernels::avx512 {

/// The first n of 16 lanes; none for n <= 0, all for n >= 16.
static inline __mmask16 lanes(int64_t n) {
  return n >= 16 ? 0xFFFF : n <= 0 ? 0 : static_cast<__mmask16>((1u << n) - 1);
}

static inline __m512 from_bf16(__m256i halves) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/// The scales of a block's 16 rows; `index` as of scale_index.
static inline __m512 load_scales(const WeightView& view, int64_t index) {
  if (view.scale_type == ScaleType::kF32) return _mm512_loadu_ps(view.scales + index * 4);
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(view.scales + index * 2));
  return view.scale_type == ScaleType::kBF16 ? from_bf16(halves) : _mm512_cvtph_ps(halves);
}

static inline __m512 load_zeros(const WeightView& view, int64_t index) {
  const __m128i zeros = _mm_loadu_si128(reinterpret_cast<const __m128i*>(view.zeros + index));
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(zeros));
}

/// x >> (from - to) where that is positive, else x << (to - from), in 32-bit lanes.
template <int from, int to>
static inline __m512i move_field(__m512i x) {
  if constexpr (from > to) {
    return _mm512_srli_epi32(x, from - to);
  } else if constexpr (from < to) {
    return _mm512_slli_epi32(x, to - from);
  } else {
    return x;
  }
}

/// ORs the field of quad `quad` of a plane of width `width` into u at bit `place`.
template <int width, int place, int quad>
static inline __m512i add_field(const std::byte* plane, __m512i u) {
  constexpr int kFields = 8 / width;
  const __m512i vector = _mm512_loadu_si512(plane + quad / kFields * kVectorBytes);
  const __m512i moved = move_field<quad % kFields * width, place>(vector);
  const __m512i mask = _mm512_set1_epi8(static_cast<char>(((1 << width) - 1) << place));
  return _mm512_ternarylogic_epi32(u, moved, mask, 0xF8);  // u | (moved & mask)
}

/// The unsigned bytes of quad `quad` (0..7) of a chunk: 16 rows of four columns.
template <int bits, int quad>
static inline __m512i unpack_quad(const std::byte* chunk) {
  if constexpr (bits == 8) return _mm512_loadu_si512(chunk + quad * kVectorBytes);
  __m512i u = _mm512_setzero_si512();
  if constexpr ((bits & 4) != 0) u = add_field<4, 0, quad>(chunk, u);
  if constexpr ((bits & 2) != 0) u = add_field<2, bits & 4, quad>(chunk + (bits & 4) * kVectorBytes, u);
  if constexpr ((bits & 1) != 0) u = add_field<1, bits & 6, quad>(chunk + (bits & 6) * kVectorBytes, u);
  return u;
}

/// Asks for the `bytes` that follow `at` at a distance that memory needs to deliver them; prefetching past the end of a
/// matrix does no harm.
template <int64_t bytes>
static inline void prefetch(const std::byte* at) {
  constexpr int64_t kDistance = 4096;
  for (int64_t i = 0; i < bytes; i += 64) _mm_prefetch(at + kDistance + i, _MM_HINT_T0);
}

namespace {

/// What vector_ops.h asks for; in an unnamed namespace, so that its templates are each file's own.
struct Simd {
  using Vec = __m512;
  static constexpr int64_t kLanes = 16;

  static Vec zero() { return _mm512_setzero_ps(); }
  static Vec set(float x) { return _mm512_set1_ps(x); }
  static Vec load(const float* x) { return _mm512_loadu_ps(x); }
  static Vec load(const float* x, int64_t n) { return _mm512_maskz_loadu_ps(lanes(n), x); }
  static void store(float* x, Vec v) { _mm512_storeu_ps(x, v); }
  static void store(float* x, Vec v, int64_t n) { _mm512_mask_storeu_ps(x, lanes(n), v); }
  static Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
  static Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
  static Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
  static Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static Vec fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a, b, c); }
  static Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
  static Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
  static Vec round(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Vec scale(Vec p, Vec n) { return _mm512_scalef_ps(p, n); }
  static Vec first(int64_t n, Vec a, Vec b) { return _mm512_mask_mov_ps(b, lanes(n), a); }
  static float sum(Vec v) { return _mm512_reduce_add_ps(v); }
  static float largest(Vec v) { return _mm512_reduce_max_ps(v); }
  static Vec load_f16(const std::byte* x, int64_t n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes(n), x)); }
  static Vec load_bf16(const std::byte* x, int64_t n) { return from_bf16(_mm256_maskz_loadu_epi16(lanes(n), x)); }
  static Vec load_i8(const int8_t* x, int64_t n) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(lanes(n), x)));
  }
  static void store_f16(std::byte* x, Vec v, int64_t n) {
    _mm256_mask_storeu_epi16(x, lanes(n), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static void store_bf16(std::byte* x, Vec v, int64_t n) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i chosen = _mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, quiet), 16);
    _mm256_mask_storeu_epi16(x, lanes(n), _mm512_cvtepi32_epi16(chosen));
  }
  static void store_i8(int8_t* x, Vec v, int64_t n) {
    _mm_mask_storeu_epi8(x, lanes(n), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
  }
};

}  // namespace

}  // namespace autoglm::kernels::avx512
