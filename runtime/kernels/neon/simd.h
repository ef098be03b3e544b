#pragma once
/// Vectors of 4 floats: what the files of this folder and of dotprod/ share. Everything is static or in an unnamed
/// namespace: each file has its own copy.
#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "runtime/kernels/kernels.h"

namespace autoglm::kernels::neon {

static inline int8x16_t load_bytes(const void* at) { return vld1q_s8(static_cast<const int8_t*>(at)); }

static inline float32x4_t from_bf16(uint16x4_t halves) { return vreinterpretq_f32_u32(vshll_n_u16(halves, 16)); }
static inline float32x4_t from_f16(uint16x4_t halves) { return vcvt_f32_f16(vreinterpret_f16_u16(halves)); }
static inline uint16x4_t load_halves(const std::byte* at) {
  return vreinterpret_u16_u8(vld1_u8(reinterpret_cast<const uint8_t*>(at)));
}

/// The scales of 4 rows from `index` on (scale_index of the first).
static inline float32x4_t load_scales(const WeightView& view, int64_t index) {
  if (view.scale_type == ScaleType::kF32) {
    return vreinterpretq_f32_s8(load_bytes(view.scales + index * 4));
  }
  const uint16x4_t halves = load_halves(view.scales + index * 2);
  return view.scale_type == ScaleType::kBF16 ? from_bf16(halves) : from_f16(halves);
}

static inline float32x4_t load_zeros(const WeightView& view, int64_t index) {
  int32_t quad;
  __builtin_memcpy(&quad, view.zeros + index, sizeof quad);
  const int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(quad)));
  return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}

/// ORs the field of quad `quad` of a plane of width `width` into u at bit `place`, for rows 4 * part to 4 * part + 3.
template <int width, int place, int quad>
static inline uint32x4_t add_field(const std::byte* plane, int part, uint32x4_t u) {
  constexpr int kFields = 8 / width, kFrom = quad % kFields * width;
  const uint32x4_t vector = vreinterpretq_u32_s8(load_bytes(plane + quad / kFields * kVectorBytes + 16 * part));
  uint32x4_t moved = vector;
  if constexpr (kFrom > place) moved = vshrq_n_u32(vector, kFrom - place);
  if constexpr (kFrom < place) moved = vshlq_n_u32(vector, place - kFrom);
  const uint32x4_t mask = vreinterpretq_u32_u8(vdupq_n_u8(static_cast<uint8_t>(((1 << width) - 1) << place)));
  return vorrq_u32(u, vandq_u32(moved, mask));
}

/// q = u - 2^(bits-1) of quad `quad` (0..7) of a chunk as signed bytes: 4 rows of four columns.
template <int bits, int quad>
static inline int8x16_t unpack_quad(const std::byte* chunk, int part) {
  uint32x4_t u = vdupq_n_u32(0);
  if constexpr (bits == 8) u = vreinterpretq_u32_s8(load_bytes(chunk + quad * kVectorBytes + 16 * part));
  if constexpr ((bits & 4) != 0) u = add_field<4, 0, quad>(chunk, part, u);
  if constexpr ((bits & 2) != 0) u = add_field<2, bits & 4, quad>(chunk + (bits & 4) * kVectorBytes, part, u);
  if constexpr ((bits & 1) != 0) u = add_field<1, bits & 6, quad>(chunk + (bits & 6) * kVectorBytes, part, u);
  return vsubq_s8(vreinterpretq_s8_u32(u), vdupq_n_s8(static_cast<int8_t>(1 << (bits - 1))));
}

/// Calls `visit(4 * quad, bytes)` for every quad of a chunk: q of 4 rows by four columns.
template <int bits, int quad = 0, class Visit>
static inline void visit_quads(const std::byte* chunk, int part, const Visit& visit) {
  if constexpr (quad < 8) {
    visit(4 * quad, unpack_quad<bits, quad>(chunk, part));
    visit_quads<bits, quad + 1>(chunk, part, visit);
  }
}

namespace {

/// What vector_ops.h asks for; in an unnamed namespace, so that its templates are each file's own.
struct Simd {
  using Vec = float32x4_t;
  static constexpr int64_t kLanes = 4;

  /// The first n lanes: none for n <= 0, all for n >= 4.
  static uint32x4_t lanes(int64_t n) {
    const int32_t order[4] = {0, 1, 2, 3};
    return vcltq_s32(vld1q_s32(order), vdupq_n_s32(n > 4 ? 4 : static_cast<int32_t>(n < 0 ? 0 : n)));
  }
  /// n elements of `size` bytes in the low half, what is missing of 4 zero.
  template <int size>
  static uint8x8_t load_part(const void* x, int64_t n) {
    uint8_t some[8] = {};
    __builtin_memcpy(some, x, static_cast<size_t>((n > 4 ? 4 : n) * size));
    return vld1_u8(some);
  }
  template <int size>
  static void store_part(void* x, uint8x8_t v, int64_t n) {
    uint8_t all[8];
    vst1_u8(all, v);
    __builtin_memcpy(x, all, static_cast<size_t>((n > 4 ? 4 : n) * size));
  }
  static Vec power_of_two(int32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
  }

  static Vec zero() { return vdupq_n_f32(0); }
  static Vec set(float x) { return vdupq_n_f32(x); }
  static Vec load(const float* x) { return vreinterpretq_f32_s8(load_bytes(x)); }
  static Vec load(const float* x, int64_t n) {
    if (n >= 4) return load(x);
    float some[4] = {};
    __builtin_memcpy(some, x, static_cast<size_t>(n) * 4);
    return vld1q_f32(some);
  }
  static void store(float* x, Vec v) { vst1q_s8(reinterpret_cast<int8_t*>(x), vreinterpretq_s8_f32(v)); }
  static void store(float* x, Vec v, int64_t n) {
    if (n >= 4) return store(x, v);
    float all[4];
    vst1q_f32(all, v);
    __builtin_memcpy(x, all, static_cast<size_t>(n) * 4);
  }
  static Vec add(Vec a, Vec b) { return vaddq_f32(a, b); }
  static Vec sub(Vec a, Vec b) { return vsubq_f32(a, b); }
  static Vec mul(Vec a, Vec b) { return vmulq_f32(a, b); }
  static Vec div(Vec a, Vec b) { return vdivq_f32(a, b); }
  static Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
  static Vec fnma(Vec a, Vec b, Vec c) { return vfmsq_f32(c, a, b); }
  static Vec min(Vec a, Vec b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
  static Vec max(Vec a, Vec b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
  static Vec round(Vec a) { return vrndnq_f32(a); }
  /// In two steps, as 2^n alone may be beyond the range.
  static Vec scale(Vec p, Vec n) {
    const int32x4_t whole = vcvtnq_s32_f32(n), half = vshrq_n_s32(whole, 1);
    return mul(mul(p, power_of_two(half)), power_of_two(vsubq_s32(whole, half)));
  }
  static Vec first(int64_t n, Vec a, Vec b) { return vbslq_f32(lanes(n), a, b); }
  static float sum(Vec v) { return vaddvq_f32(v); }
  static float largest(Vec v) { return vmaxvq_f32(v); }
  static Vec load_f16(const std::byte* x, int64_t n) { return from_f16(vreinterpret_u16_u8(load_part<2>(x, n))); }
  static Vec load_bf16(const std::byte* x, int64_t n) { return from_bf16(vreinterpret_u16_u8(load_part<2>(x, n))); }
  static Vec load_i8(const int8_t* x, int64_t n) {
    const int16x8_t wide = vmovl_s8(vreinterpret_s8_u8(load_part<1>(x, n)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
  }
  static void store_f16(std::byte* x, Vec v, int64_t n) { store_part<2>(x, vreinterpret_u8_f16(vcvt_f16_f32(v)), n); }
  static void store_bf16(std::byte* x, Vec v, int64_t n) {
    const uint32x4_t bits = vreinterpretq_u32_f32(v);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7FFF)));
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    const uint32x4_t chosen = vbslq_u32(vceqq_f32(v, v), rounded, quiet);
    store_part<2>(x, vreinterpret_u8_u16(vshrn_n_u32(chosen, 16)), n);
  }
  static void store_i8(int8_t* x, Vec v, int64_t n) {
    const int16x4_t words = vqmovn_s32(vcvtnq_s32_f32(v));
    store_part<1>(x, vreinterpret_u8_s8(vqmovn_s16(vcombine_s16(words, words))), n);
  }
};

}  // namespace

}  // namespace autoglm::kernels::neon
