#include "compress/export/ggml_fit.h"

#include <array>
#include <limits>

namespace autoglm::exports {
namespace {

/// As long as the registers of every machine, and no longer: compilers take longer ones apart lane by lane.
using Floats = float __attribute__((vector_size(sizeof(float) * kFitsAtOnce)));
using Flags = decltype(Floats{} < Floats{});

constexpr int kGuesses = 16;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Of kGuesses + 1: how many levels the range of the values has.
float guessed_levels(int levels, int guess) {
  return static_cast<float>(levels) * (0.7F + 0.6F * static_cast<float>(guess) / kGuesses);
}

Floats least(Floats a, Floats b) { return a < b ? a : b; }
Floats most(Floats a, Floats b) { return a > b ? a : b; }
Floats nearest(Floats x, Floats lowest, Floats highest) {
  return (least(most(x, lowest), highest) + kNoFraction) - kNoFraction;
}

/// The groups side by side: value i of all of them together. Lanes without a group repeat the last one.
struct Groups {
  size_t count;
  std::array<Floats, kMostValuesOfGroup> values, weights;

  Groups(std::span<const float> from, std::span<const float> their_weights, size_t groups)
      : count(from.size() / groups) {
    for (size_t lane = 0; lane < kFitsAtOnce; ++lane) {
      const size_t first = std::min(lane, groups - 1) * count;
      for (size_t i = 0; i < count; ++i) {
        values[i][lane] = from[first + i];
        weights[i][lane] = their_weights.empty() ? 1 : their_weights[first + i];
      }
    }
  }
};

/// value = scale * q - minimum of every group.
struct Affines {
  Floats scale, minimum;

  Flags usable() const { return (scale > 0) & (1 / scale < kInfinity); }
};

/// Sums over a group that the least squares of value = scale * q - minimum need: of the values alone,
struct ValueMoments {
  Floats weight, x, xx;
};

/// and with the levels q.
struct Moments {
  ValueMoments values;
  Floats q, qq, qx;

  Affines solve() const {
    const auto& [weight, x, xx] = values;
    const Floats determinant = weight * qq - q * q, none{};
    const Floats minimum = (q * qx - qq * x) / determinant;
    const Floats scale = (weight * qx - q * x) / determinant;
    const Floats through_zero = qq > 0 ? qx / qq : none;
    // Where all levels are one, the determinant is rounding errors, some 1e-6 of its terms; a level of 31 that differs
    // from all others makes 1e-5 with a hundredth of the weight.
    const Flags solvable = determinant > 1e-5F * weight * qq, below = minimum < 0;
    return {.scale = solvable ? (below ? through_zero : scale) : none, .minimum = solvable & ~below ? minimum : none};
  }

  /// The weighted squared error of the same levels q by `fits`.
  Floats error(const Affines& fits) const {
    const auto& [weight, x, xx] = values;
    const Floats s = fits.scale, m = fits.minimum;
    return xx + s * s * qq + m * m * weight - 2 * s * m * q - 2 * s * qx + 2 * m * x;
  }
};

ValueMoments moments_of(const Groups& groups) {
  Floats weight{}, x{}, xx{};
  for (size_t i = 0; i < groups.count; ++i) {
    const Floats value = groups.values[i], weighted = groups.weights[i] * value;
    weight += groups.weights[i];
    x += weighted;
    xx += weighted * value;
  }
  return {weight, x, xx};
}

/// With the levels that `fits` give to the values.
Moments moments_of(const Groups& groups, const ValueMoments& known, const Affines& fits, int top) {
  Floats q{}, qq{}, qx{};
  const Floats inverse = 1 / fits.scale, lowest{}, highest = lowest + static_cast<float>(top);
  for (size_t i = 0; i < groups.count; ++i) {
    const Floats value = groups.values[i];
    const Floats level = nearest((value + fits.minimum) * inverse, lowest, highest);
    const Floats weighted = groups.weights[i] * level;
    q += weighted;
    qq += weighted * level;
    qx += weighted * value;
  }
  return {known, q, qq, qx};
}

void fit_affine(const Groups& groups, int top, std::span<Affine> fits) {
  Floats lowest{}, highest = groups.values[0];
  for (size_t i = 0; i < groups.count; ++i) {
    lowest = least(groups.values[i], lowest);
    highest = most(groups.values[i], highest);
  }
  const Floats range = highest - lowest;
  const ValueMoments known = moments_of(groups);
  const Affines plain{range / static_cast<float>(top), -lowest};
  const Flags usable = plain.usable();  // where not, all values are alike, or nearly
  Affines best{usable ? plain.scale : Floats{}, plain.minimum};
  Floats smallest = moments_of(groups, known, plain, top).error(plain);
  for (int guess = 0; guess <= kGuesses; ++guess) {
    Affines tried{range / guessed_levels(top, guess), -lowest};
    Flags going_on = usable;
    for (int round = 0; round < 2; ++round) {
      const Moments moments = moments_of(groups, known, tried, top);
      tried = moments.solve();
      going_on &= tried.usable();
      const Floats error = moments.error(tried);
      const Flags better = going_on & (error < smallest);
      smallest = better ? error : smallest;
      best.scale = better ? tried.scale : best.scale;
      best.minimum = better ? tried.minimum : best.minimum;
    }
  }
  for (size_t i = 0; i < fits.size(); ++i) fits[i] = {best.scale[i], best.minimum[i]};
}

void fit_symmetric(const Groups& groups, int middle, std::span<Affine> fits) {
  Floats largest{};
  for (size_t i = 0; i < groups.count; ++i) {
    const Floats value = groups.values[i];
    largest = (value < 0 ? -value : value) > (largest < 0 ? -largest : largest) ? value : largest;
  }
  const Floats lowest = Floats{} - static_cast<float>(middle), highest = -lowest - 1;
  Floats best{};
  Floats explained = Floats{} - 1;  // by a scale: (sum w q x)^2 / sum w q^2
  for (const float sign : {-1.0F, 1.0F}) {
    for (int guess = 0; guess <= kGuesses; ++guess) {
      const Floats inverse = sign * guessed_levels(middle, guess) / largest;
      Floats qx{}, qq{};
      for (size_t i = 0; i < groups.count; ++i) {
        const Floats value = groups.values[i];
        const Floats level = nearest(value * inverse, lowest, highest);
        const Floats weighted = groups.weights[i] * level;
        qx += weighted * value;
        qq += weighted * level;
      }
      const Flags usable = (inverse < kInfinity) & (inverse > -kInfinity);
      const Flags better = usable & (qq > 0) & (qx * qx / qq > explained);
      explained = better ? qx * qx / qq : explained;
      best = better ? qx / qq : best;
    }
  }
  for (size_t i = 0; i < fits.size(); ++i) fits[i] = {best[i], 0};
}

}  // namespace

void fit_groups(std::span<const float> values, std::span<const float> weights, Levels levels, std::span<Affine> fits) {
  const Groups groups(values, weights, fits.size());
  if (levels.has_minimum) {
    fit_affine(groups, levels.top(), fits);
  } else {
    fit_symmetric(groups, levels.middle(), fits);
  }
}

}  // namespace autoglm::exports
