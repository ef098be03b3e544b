#include "compress/export/ggml_fit.h"

#include <algorithm>

namespace autoglm::exports {
namespace {

/// Sums that the least squares of value = scale * q - minimum need.
struct Moments {
  double weight = 0, q = 0, qq = 0, x = 0, qx = 0;
  void add(double w, double level, double value) {
    weight += w;
    q += w * level;
    qq += w * level * level;
    x += w * value;
    qx += w * level * value;
  }
  Affine solve() const {
    const double determinant = weight * qq - q * q;
    if (determinant <= 0) return {};
    const double scale = (weight * qx - q * x) / determinant;
    const double minimum = (q * qx - qq * x) / determinant;
    if (minimum < 0) return {static_cast<float>(qq > 0 ? qx / qq : 0), 0};  // a line through 0
    return {static_cast<float>(scale), static_cast<float>(minimum)};
  }
};

double error_of(const float* values, const float* weights, size_t count, int top, Affine fit) {
  double error = 0;
  for (size_t i = 0; i < count; ++i) {
    const int q = fit.scale > 0 ? std::clamp(nearest((values[i] + fit.minimum) / fit.scale), 0, top) : 0;
    const double off = static_cast<double>(fit.scale) * q - fit.minimum - values[i];
    error += weights[i] * off * off;
  }
  return error;
}

}  // namespace

Affine fit_affine(const float* values, const float* weights, size_t count, int top) {
  constexpr int kGuesses = 16;
  const auto [low, high] = std::minmax_element(values, values + count);
  const float lowest = std::min(*low, 0.0F), range = *high - lowest;
  if (!(range > 0)) return {0, -lowest};
  Affine best{range / static_cast<float>(top), -lowest};
  double least = error_of(values, weights, count, top, best);
  for (int guess = 0; guess <= kGuesses; ++guess) {
    const float levels = static_cast<float>(top) * (0.7F + 0.6F * static_cast<float>(guess) / kGuesses);
    Affine fit{range / levels, -lowest};
    for (int round = 0; round < 2; ++round) {
      Moments moments;
      for (size_t i = 0; i < count; ++i) {
        const int q = std::clamp(nearest((values[i] + fit.minimum) / fit.scale), 0, top);
        moments.add(weights[i], q, values[i]);
      }
      fit = moments.solve();
      if (!(fit.scale > 0)) break;
      const double error = error_of(values, weights, count, top, fit);
      if (error < least) least = error, best = fit;
    }
  }
  return best;
}

float fit_symmetric(const float* values, const float* weights, size_t count, int middle) {
  constexpr int kGuesses = 16;
  const float* largest =
      std::max_element(values, values + count, [](float a, float b) { return std::abs(a) < std::abs(b); });
  if (*largest == 0) return 0;
  float best = 0;
  double least = -1;  // of what a scale explains: (sum w q x)^2 / sum w q^2
  for (const float sign : {-1.0F, 1.0F}) {
    for (int guess = 0; guess <= kGuesses; ++guess) {
      const float levels = static_cast<float>(middle) * (0.7F + 0.6F * static_cast<float>(guess) / kGuesses);
      const float scale = sign * *largest / levels;
      double qx = 0, qq = 0;
      for (size_t i = 0; i < count; ++i) {
        const double q = std::clamp(nearest(values[i] / scale), -middle, middle - 1);
        qx += weights[i] * q * values[i];
        qq += weights[i] * q * q;
      }
      if (qq > 0 && qx * qx / qq > least) least = qx * qx / qq, best = static_cast<float>(qx / qq);
    }
  }
  return best;
}

}  // namespace autoglm::exports
