#pragma once
/// Vectors of 8 floats: what the files of this folder share. Everything is static: each file has its own copy.
#include <immintrin.h>

#include <cstdint>

#include "runtime/kernels/kernels.h"

namespace autoglm::kernels::avx2 {

static inline __m256i load256(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
static inline __m128i load128(const void* at) { return _mm_loadu_si128(static_cast<const __m128i*>(at)); }

static inline __m256 from_bf16(__m128i halves) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

/// The scales of 8 rows from `index` on (scale_index of the first).
static inline __m256 load_scales(const WeightView& view, int64_t index) {
  if (view.scale_type == ScaleType::kF32) return _mm256_loadu_ps(reinterpret_cast<const float*>(view.scales) + index);
  const __m128i halves = load128(view.scales + index * 2);
  return view.scale_type == ScaleType::kBF16 ? from_bf16(halves) : _mm256_cvtph_ps(halves);
}

static inline __m256 load_zeros(const WeightView& view, int64_t index) {
  const __m128i zeros = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(view.zeros + index));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(zeros));
}

/// ORs the field of quad `quad` of a plane of width `width` into u at bit `place`; `half`: rows 0 to 7 or 8 to 15.
template <int width, int place, int quad>
static inline __m256i add_field(const std::byte* plane, int half, __m256i u) {
  constexpr int kFields = 8 / width, kFrom = quad % kFields * width;
  const __m256i vector = load256(plane + quad / kFields * kVectorBytes + 32 * half);
  const __m256i moved = kFrom >= place ? _mm256_srli_epi32(vector, kFrom >= place ? kFrom - place : 0)
                                       : _mm256_slli_epi32(vector, kFrom < place ? place - kFrom : 0);
  const __m256i mask = _mm256_set1_epi8(static_cast<char>(((1 << width) - 1) << place));
  return _mm256_or_si256(u, _mm256_and_si256(moved, mask));
}

/// q = u - 2^(bits-1) of quad `quad` (0..7) of a chunk as signed bytes: 8 rows of four columns.
template <int bits, int quad>
static inline __m256i unpack_quad(const std::byte* chunk, int half) {
  __m256i u = _mm256_setzero_si256();
  if constexpr (bits == 8) u = load256(chunk + quad * kVectorBytes + 32 * half);
  if constexpr ((bits & 4) != 0) u = add_field<4, 0, quad>(chunk, half, u);
  if constexpr ((bits & 2) != 0) u = add_field<2, bits & 4, quad>(chunk + (bits & 4) * kVectorBytes, half, u);
  if constexpr ((bits & 1) != 0) u = add_field<1, bits & 6, quad>(chunk + (bits & 6) * kVectorBytes, half, u);
  return _mm256_sub_epi8(u, _mm256_set1_epi8(static_cast<char>(1 << (bits - 1))));
}

/// Calls `visit(4 * quad, bytes)` for every quad of a chunk: q of 8 rows by four columns.
template <int bits, int quad = 0, class Visit>
static inline void visit_quads(const std::byte* chunk, int half, const Visit& visit) {
  if constexpr (quad < 8) {
    visit(4 * quad, unpack_quad<bits, quad>(chunk, half));
    visit_quads<bits, quad + 1>(chunk, half, visit);
  }
}

namespace {

/// What vector_ops.h asks for; in an unnamed namespace, so that its templates are each file's own.
struct Simd {
  using Vec = __m256;
  static constexpr int64_t kLanes = 8;

  /// The first n lanes: none for n <= 0, all for n >= 8.
  static __m256i lanes(int64_t n) {
    const int count = n > 8 ? 8 : n < 0 ? 0 : static_cast<int>(n);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  /// n elements of `size` bytes, what is missing of 8 zero.
  template <int size>
  static __m128i load_part(const void* x, int64_t n) {
    if (n >= 8) return size == 2 ? load128(x) : _mm_loadl_epi64(static_cast<const __m128i*>(x));
    alignas(16) std::byte some[16] = {};
    for (int64_t i = 0; i < n * size; ++i) some[i] = static_cast<const std::byte*>(x)[i];
    return load128(some);
  }
  template <int size>
  static void store_part(void* x, __m128i v, int64_t n) {
    alignas(16) std::byte all[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(all), v);
    const int64_t bytes = (n > 8 ? 8 : n) * size;
    for (int64_t i = 0; i < bytes; ++i) static_cast<std::byte*>(x)[i] = all[i];
  }
  static Vec power_of_two(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
  }

  static Vec zero() { return _mm256_setzero_ps(); }
  static Vec set(float x) { return _mm256_set1_ps(x); }
  static Vec load(const float* x) { return _mm256_loadu_ps(x); }
  static Vec load(const float* x, int64_t n) { return n >= 8 ? load(x) : _mm256_maskload_ps(x, lanes(n)); }
  static void store(float* x, Vec v) { _mm256_storeu_ps(x, v); }
  static void store(float* x, Vec v, int64_t n) { n >= 8 ? store(x, v) : _mm256_maskstore_ps(x, lanes(n), v); }
  static Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
  static Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
  static Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
  static Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
  static Vec fnma(Vec a, Vec b, Vec c) { return _mm256_fnmadd_ps(a, b, c); }
  static Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
  static Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
  static Vec round(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  /// In two steps, as 2^n alone may be beyond the range.
  static Vec scale(Vec p, Vec n) {
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    return mul(mul(p, power_of_two(half)), power_of_two(_mm256_sub_epi32(whole, half)));
  }
  static Vec first(int64_t n, Vec a, Vec b) { return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(lanes(n))); }
  static float sum(Vec v) {
    __m128 sums = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    sums = _mm_add_ps(sums, _mm_movehl_ps(sums, sums));
    return _mm_cvtss_f32(_mm_add_ss(sums, _mm_movehdup_ps(sums)));
  }
  static float largest(Vec v) {
    __m128 most = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
  }
  static Vec load_f16(const std::byte* x, int64_t n) { return _mm256_cvtph_ps(load_part<2>(x, n)); }
  static Vec load_bf16(const std::byte* x, int64_t n) { return from_bf16(load_part<2>(x, n)); }
  static Vec load_i8(const int8_t* x, int64_t n) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_part<1>(x, n)));
  }
  static void store_f16(std::byte* x, Vec v, int64_t n) {
    store_part<2>(x, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), n);
  }
  static void store_bf16(std::byte* x, Vec v, int64_t n) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i chosen = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    store_part<2>(x, narrow(chosen), n);
  }
  static void store_i8(int8_t* x, Vec v, int64_t n) {
    const __m128i words = narrow(_mm256_cvtps_epi32(v));
    store_part<1>(x, _mm_packs_epi16(words, words), n);
  }
  /// The low halves of 8 lanes.
  static __m128i narrow(__m256i v) {
    const __m256i low = _mm256_and_si256(v, _mm256_set1_epi32(0xFFFF));
    const __m256i packed = _mm256_packus_epi32(low, low);
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
  }
};

}  // namespace

}  // namespace autoglm::kernels::avx2
