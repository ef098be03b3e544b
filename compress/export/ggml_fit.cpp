#include "compress/export/ggml_fit.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace autoglm::exports {
namespace {

constexpr size_t kLanes = 8;

/// A sum in lanes, which the compiler may keep in vector registers; added up in one order.
struct Sum {
  std::array<float, kLanes> lane{};
  double total() const {
    double sum = 0;
    for (const float part : lane) sum += part;
    return sum;
  }
};

/// Sums that the least squares of value = scale * q - minimum need.
struct Moments {
  double weight, q, qq, x, qx, xx;

  Affine solve() const {
    const double determinant = weight * qq - q * q;
    if (determinant <= 0) return {};
    const double scale = (weight * qx - q * x) / determinant;
    const double minimum = (q * qx - qq * x) / determinant;
    if (minimum < 0) return {static_cast<float>(qq > 0 ? qx / qq : 0), 0};  // a line through 0
    return {static_cast<float>(scale), static_cast<float>(minimum)};
  }

  /// The weighted squared error of the same levels q by `fit`.
  double error(Affine fit) const {
    const double s = fit.scale, m = fit.minimum;
    return xx + s * s * qq + m * m * weight - 2 * s * m * q - 2 * s * qx + 2 * m * x;
  }
};

/// Of the levels that `fit` gives to the values.
Moments moments_of(const float* values, const float* weights, size_t count, int top, Affine fit) {
  Sum weight, q, qq, x, qx, xx;
  const float inverse = 1 / fit.scale, highest = static_cast<float>(top);
  for (size_t i = 0; i < count; i += kLanes) {
    for (size_t l = 0; l < kLanes; ++l) {
      const float value = values[i + l], w = weights[i + l];
      const float level = nearest_float(std::min(std::max((value + fit.minimum) * inverse, 0.0F), highest));
      const float wq = w * level, wx = w * value;
      weight.lane[l] += w;
      q.lane[l] += wq;
      qq.lane[l] += wq * level;
      x.lane[l] += wx;
      qx.lane[l] += wx * level;
      xx.lane[l] += wx * value;
    }
  }
  return {weight.total(), q.total(), qq.total(), x.total(), qx.total(), xx.total()};
}

}  // namespace

Affine fit_affine(const float* values, const float* weights, size_t count, int top) {
  constexpr int kGuesses = 16;
  const auto [low, high] = std::minmax_element(values, values + count);
  const float lowest = std::min(*low, 0.0F), range = *high - lowest;
  const Affine plain{range / static_cast<float>(top), -lowest};
  if (!(plain.scale > 0) || !std::isfinite(1 / plain.scale)) return {0, -lowest};
  Affine best = plain;
  double least = moments_of(values, weights, count, top, plain).error(plain);
  for (int guess = 0; guess <= kGuesses; ++guess) {
    const float levels = static_cast<float>(top) * (0.7F + 0.6F * static_cast<float>(guess) / kGuesses);
    Affine fit{range / levels, -lowest};
    for (int round = 0; round < 2; ++round) {
      const Moments moments = moments_of(values, weights, count, top, fit);
      fit = moments.solve();
      if (!(fit.scale > 0) || !std::isfinite(1 / fit.scale)) break;
      if (const double error = moments.error(fit); error < least) least = error, best = fit;
    }
  }
  return best;
}

float fit_symmetric(const float* values, const float* weights, size_t count, int middle) {
  constexpr int kGuesses = 16;
  const float* largest =
      std::max_element(values, values + count, [](float a, float b) { return std::abs(a) < std::abs(b); });
  if (*largest == 0) return 0;
  const float lowest = -static_cast<float>(middle), highest = static_cast<float>(middle - 1);
  float best = 0;
  double least = -1;  // of what a scale explains: (sum w q x)^2 / sum w q^2
  for (const float sign : {-1.0F, 1.0F}) {
    for (int guess = 0; guess <= kGuesses; ++guess) {
      const float levels = static_cast<float>(middle) * (0.7F + 0.6F * static_cast<float>(guess) / kGuesses);
      const float inverse = levels / (sign * *largest);
      if (!std::isfinite(inverse)) continue;
      Sum qx, qq;
      for (size_t i = 0; i < count; i += kLanes) {
        for (size_t l = 0; l < kLanes; ++l) {
          const float level = nearest_float(std::min(std::max(values[i + l] * inverse, lowest), highest));
          const float wq = weights[i + l] * level;
          qx.lane[l] += wq * values[i + l];
          qq.lane[l] += wq * level;
        }
      }
      const double x = qx.total(), q = qq.total();
      if (q > 0 && x * x / q > least) least = x * x / q, best = static_cast<float>(x / q);
    }
  }
  return best;
}

}  // namespace autoglm::exports
