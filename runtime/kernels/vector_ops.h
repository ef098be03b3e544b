#pragma once
/// Operations on rows of floats for any vector type S (simd.h of an instruction set's folder). Everything is a template
/// over a type of the including file's own, so that each file has its own copy, compiled with its own flags.
///
/// S has: Vec of kLanes floats; zero, set, load, store (whole vectors), load and store of the first n lanes (any n >=
/// 0; lanes beyond are zero); add, sub, mul, div, fma(a, b, c) = a * b + c, fnma(a, b, c) = c - a * b; min and max (b
/// where one is NaN); round (to nearest even); scale(p, n) = p * 2^n; first(n, a, b): lanes of a before n, of b from
/// there; sum, largest; load_f16, load_bf16, load_i8 (n lanes), store_f16, store_bf16, store_i8 (n lanes, round to
/// nearest even).
#include <cstddef>
#include <cstdint>

namespace autoglm::kernels {

/// exp(x) within 2 units in the last place. Range reduction to |r| <= ln(2) / 2 and the polynomial of Cephes' expf
/// (Moshier); beyond the bounds the result is 0 or infinity by rounding.
template <class S>
static inline typename S::Vec exp(typename S::Vec x) {
  x = S::max(S::set(-104), S::min(S::set(89), x));
  const auto n = S::round(S::mul(x, S::set(1.44269504088896341f)));
  auto r = S::fnma(n, S::set(0.693359375f), x);
  r = S::fnma(n, S::set(-2.12194440e-4f), r);
  auto p = S::set(1.9875691500e-4f);
  p = S::fma(p, r, S::set(1.3981999507e-3f));
  p = S::fma(p, r, S::set(8.3334519073e-3f));
  p = S::fma(p, r, S::set(4.1665795894e-2f));
  p = S::fma(p, r, S::set(1.6666665459e-1f));
  p = S::fma(p, r, S::set(5.0000001201e-1f));
  p = S::fma(p, S::mul(r, r), S::add(r, S::set(1)));
  return S::scale(p, n);
}

template <class S>
struct VectorOps {
  using Vec = typename S::Vec;
  static constexpr int64_t kLanes = S::kLanes;

  static void rms_norm(const float* x, int64_t x_stride, const float* weight, float eps, int64_t rows, int64_t n,
                       float* y, int64_t y_stride) {
    for (int64_t row = 0; row < rows; ++row) {
      const float* from = x + row * x_stride;
      float* to = y + row * y_stride;
      Vec squares = S::zero();
      for (int64_t i = 0; i < n; i += kLanes) {
        const Vec v = S::load(from + i, n - i);
        squares = S::fma(v, v, squares);
      }
      const float factor = 1.0f / __builtin_sqrtf(S::sum(squares) / static_cast<float>(n) + eps);
      for (int64_t i = 0; i < n; i += kLanes) {
        const Vec v = S::mul(S::load(from + i, n - i), S::set(factor));
        S::store(to + i, S::mul(v, S::load(weight + i, n - i)), n - i);
      }
    }
  }

  static void swiglu(const float* gate, const float* up, int64_t n, float* y) {
    for (int64_t i = 0; i < n; i += kLanes) {
      const Vec g = S::load(gate + i, n - i);
      const Vec silu = S::div(g, S::add(S::set(1), exp<S>(S::sub(S::zero(), g))));
      S::store(y + i, S::mul(silu, S::load(up + i, n - i)), n - i);
    }
  }

  static void add_scaled(const float* x, float scale, int64_t n, float* y) {
    for (int64_t i = 0; i < n; i += kLanes) {
      S::store(y + i, S::fma(S::load(x + i, n - i), S::set(scale), S::load(y + i, n - i)), n - i);
    }
  }

  static float quantize(const float* x, int64_t n, float scale, int8_t* xq) {
    Vec most = S::zero(), nothing = S::zero();  // the latter NaN where a value is none or infinite
    for (int64_t i = 0; i < n; i += kLanes) {
      const Vec v = S::load(x + i, n - i);
      most = S::max(most, S::max(v, S::sub(S::zero(), v)));
      nothing = S::fma(v, S::zero(), nothing);
    }
    if (scale == 0) {
      scale = S::largest(most) / 127.5f;
      if (!(scale > 0)) scale = 0x1p-23f;
    }
    scale += S::sum(nothing);
    for (int64_t i = 0; i < n; i += kLanes) {
      const Vec q = S::div(S::load(x + i, n - i), S::set(scale));
      S::store_i8(xq + i, S::min(S::max(q, S::set(-128)), S::set(127)), n - i);
    }
    return scale;
  }

  static void f16_to_f32(const std::byte* x, int64_t n, float* y) {
    for (int64_t i = 0; i < n; i += kLanes) S::store(y + i, S::load_f16(x + 2 * i, n - i), n - i);
  }
  static void bf16_to_f32(const std::byte* x, int64_t n, float* y) {
    for (int64_t i = 0; i < n; i += kLanes) S::store(y + i, S::load_bf16(x + 2 * i, n - i), n - i);
  }
  static void f32_to_f16(const float* x, int64_t n, std::byte* y) {
    for (int64_t i = 0; i < n; i += kLanes) S::store_f16(y + 2 * i, S::load(x + i, n - i), n - i);
  }
  static void f32_to_bf16(const float* x, int64_t n, std::byte* y) {
    for (int64_t i = 0; i < n; i += kLanes) S::store_bf16(y + 2 * i, S::load(x + i, n - i), n - i);
  }

  /// Puts the operations of this file into a table.
  template <class Table>
  static void fill(Table& table) {
    table.rms_norm = rms_norm;
    table.swiglu = swiglu;
    table.add_scaled = add_scaled;
    table.quantize = quantize;
    table.f16_to_f32 = f16_to_f32;
    table.bf16_to_f32 = bf16_to_f32;
    table.f32_to_f16 = f32_to_f16;
    table.f32_to_bf16 = f32_to_bf16;
  }
};

}  // namespace autoglm::kernels
