#include "runtime/kernels/linear.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>

#include "runtime/kernels/testing.h"

namespace autoglm::kernels {
namespace {

using format::DType;
using testing::QuantCase;
using testing::random_floats;
using testing::random_weight;

/// A product in double, and for each value the size that rounding errors are measured by.
struct Expected {
  std::vector<double> y, magnitude;
};

/// `offset`: kernels may add (w + offset) * x and take offset * x off again.
Expected multiply(const std::vector<float>& w, const std::vector<float>& x, const std::vector<float>& bias, size_t rows,
                  size_t cols, double offset) {
  Expected expected;
  for (size_t t = 0; t < x.size() / cols; ++t) {
    for (size_t r = 0; r < rows; ++r) {
      double sum = bias.empty() ? 0 : bias[r], magnitude = std::abs(sum);
      for (size_t c = 0; c < cols; ++c) {
        const double a = w[r * cols + c], b = x[t * cols + c];
        sum += a * b;
        magnitude += (std::abs(a) + offset) * std::abs(b);
      }
      expected.y.push_back(sum);
      expected.magnitude.push_back(magnitude);
    }
  }
  return expected;
}

constexpr double kTolerance = 2e-6;              // some float roundings
constexpr double kSplit = kTolerance + 0x1p-16;  // where inputs are two BF16

void expect_near(const std::vector<float>& y, const Expected& expected, double tolerance, const std::string& what) {
  ASSERT_EQ(y.size(), expected.y.size());
  for (size_t i = 0; i < y.size(); ++i) {
    ASSERT_NEAR(y[i], expected.y[i], tolerance * expected.magnitude[i] + 1e-30) << what << " at " << i;
  }
}

std::vector<float> dequantized(const format::QuantizedWeight& weight) {
  std::vector<float> out(weight.values.size());
  format::dequantize(weight, out);
  return out;
}

class LinearTest : public ::testing::TestWithParam<const Kernels*> {
 protected:
  std::vector<float> run(const PackedWeight& weight, const std::vector<float>& x, const std::vector<float>& bias,
                         Compute compute, float scale = 0, int threads = 1) {
    ThreadPool pool(threads);
    Linear linear(*GetParam(), pool);
    const int64_t m = static_cast<int64_t>(x.size()) / weight.cols();
    std::vector<float> y(static_cast<size_t>(m * weight.rows()), 1e30f);
    linear.run({.weight = &weight,
                .x = x.data(),
                .x_stride = weight.cols(),
                .m = m,
                .bias = bias.empty() ? nullptr : bias.data(),
                .y = y.data(),
                .y_stride = weight.rows()},
               compute, scale);
    return y;
  }

  /// Of float activations.
  static double tolerance(const PackedWeight& weight, size_t m) {
    const auto wants = GetParam()->wants_split;
    const bool split = wants != nullptr && wants(weight.view(), static_cast<int64_t>(m)) != SplitInput::kNone;
    return split ? kSplit : kTolerance;
  }

  /// What int8 activations make of x, by the table's own rounding (which has a test of its own).
  std::vector<float> rounded(const std::vector<float>& x, size_t cols, float scale) {
    std::vector<float> out(x.size());
    std::vector<int8_t> q(cols);
    for (size_t at = 0; at < x.size(); at += cols) {
      const float used = GetParam()->quantize(x.data() + at, static_cast<int64_t>(cols), scale, q.data());
      for (size_t c = 0; c < cols; ++c) out[at + c] = used * static_cast<float>(q[c]);
    }
    return out;
  }

  void check(const QuantCase& c, size_t rows, size_t cols, size_t m, DType scale_dtype, unsigned seed) {
    const auto weight = random_weight(c, static_cast<int64_t>(rows), static_cast<int64_t>(cols), scale_dtype, seed);
    const auto packed = PackedWeight::pack(weight);
    ASSERT_TRUE(packed.ok()) << packed.status().message();
    const auto x = random_floats(m * cols, seed + 1);
    const auto bias = seed % 2 == 0 ? std::vector<float>() : random_floats(rows, seed);
    const auto w = dequantized(weight);
    const double offset =
        c.symmetric ? 0 : *std::max_element(weight.scales.begin(), weight.scales.end()) * (1 << c.bits);
    const std::string what =
        fmt::format("{} bits, symmetric {}, group {}, [{}, {}], m {}", c.bits, c.symmetric, c.group, rows, cols, m);
    expect_near(run(*packed, x, bias, Compute::kFloat), multiply(w, x, bias, rows, cols, offset), tolerance(*packed, m),
                what);
    for (const float scale : {0.0f, 0.02f}) {
      expect_near(run(*packed, x, bias, Compute::kInt8, scale),
                  multiply(w, rounded(x, cols, scale), bias, rows, cols, offset), kTolerance, what + ", int8");
    }
  }
};

TEST_P(LinearTest, MultipliesQuantizedWeightsOfEveryKind) {
  unsigned seed = 100;
  for (int bits = 1; bits <= 8; ++bits) {
    for (const bool symmetric : {true, false}) {
      for (const int64_t group : {0, -1, 8, 16, 24, 32, 48, 64, 96, 128, 512}) {
        const size_t cols = group > 0 ? static_cast<size_t>(std::max<int64_t>(group, 384 / group * group)) : 333;
        const DType scale_dtype = std::array{DType::kBF16, DType::kF16, DType::kF32}[seed % 3];
        for (const size_t m : {1u, 2 + seed % 13, 16 + seed % 40})
          check({bits, symmetric, group}, 37, cols, m, scale_dtype, ++seed);
      }
    }
  }
}

TEST_P(LinearTest, MultipliesShapesWithTailsEverywhere) {
  unsigned seed = 1;
  for (const size_t rows : {1, 15, 16, 17, 31, 32, 33, 64, 100}) {
    for (const size_t cols : {1, 3, 16, 31, 32, 33, 255, 256, 257, 300, 520}) {
      const size_t m = std::array<size_t, 6>{1, 2, 5, 7, 13, 100}[seed % 6];
      check({seed % 2 == 0 ? 4 : 8, true, 0}, rows, cols, m, DType::kBF16, ++seed);
    }
  }
}

TEST_P(LinearTest, MultipliesFloatWeights) {
  unsigned seed = 1;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const size_t rows : {1, 4, 17, 37, 64}) {
      for (const size_t cols : {1, 7, 16, 33, 64, 300, 520, 4100}) {
        for (const size_t m : {1, 2, 3, 4, 5, 6, 7, 100}) {
          if (cols > 4096 && m > 2) continue;
          const auto values = random_floats(rows * cols, ++seed, 0.05f);
          std::vector<std::byte> bytes(values.size() * static_cast<size_t>(format::size_of(dtype)) + 1);
          const auto stored = std::span(bytes).subspan(1);
          format::from_float(dtype, values, stored);
          std::vector<float> w(values.size());
          format::to_float(dtype, stored, w);
          const auto shape = PackedShape::of(dtype, static_cast<int64_t>(rows), static_cast<int64_t>(cols));
          const auto packed = PackedWeight::view(*shape, stored);  // misaligned, as in a mapped file
          ASSERT_TRUE(packed.ok());
          const auto x = random_floats(m * cols, ++seed), bias = random_floats(rows, seed);
          const Expected expected = multiply(w, x, bias, rows, cols, 0);
          expect_near(run(*packed, x, bias, Compute::kFloat), expected, tolerance(*packed, m),
                      std::string(to_string(dtype)));
          expect_near(run(*packed, x, bias, Compute::kInt8), expected, tolerance(*packed, m),
                      "int8 leaves float weights in float");
        }
      }
    }
  }
}

// The largest products there are, over a row longer than one scale may cover: nothing may overflow or saturate.
TEST_P(LinearTest, HoldsTheExtremes) {
  for (const int bits : {8, 7, 4, 1}) {
    const size_t cols = 40000;
    auto weight = random_weight({bits, false, 0}, 16, static_cast<int64_t>(cols), DType::kF32, 1);
    for (const int sign : {-1, 1}) {
      std::fill(weight.values.begin(), weight.values.end(),
                static_cast<int8_t>(sign < 0 ? weight.args.q_min() : weight.args.q_max()));
      std::fill(weight.zero_points.begin(), weight.zero_points.end(),
                static_cast<int8_t>(sign < 0 ? weight.args.q_max() : weight.args.q_min()));
      const auto packed = PackedWeight::pack(weight);
      ASSERT_TRUE(packed.ok());
      const double q = weight.args.q_max() - weight.args.q_min();
      for (const float x : {-128.0f, 127.0f}) {
        for (const size_t m : {1, 3, 5, 20}) {
          for (const Compute compute : {Compute::kInt8, Compute::kFloat}) {
            const auto y = run(*packed, std::vector<float>(m * cols, x), {}, compute, 1.0f);
            for (size_t i = 0; i < y.size(); ++i) {
              const double exact = sign * q * x * static_cast<double>(cols) * weight.scales[i % 16];
              ASSERT_NEAR(y[i], exact, std::abs(exact) * (compute == Compute::kInt8 ? 1e-4 : 2e-3)) << bits;
            }
          }
        }
      }
    }
  }
}

// Every value of a weight in every place, seen through unit vectors: what is computed is exactly the scale times q.
TEST_P(LinearTest, PicksEveryElementExactly) {
  for (int bits = 1; bits <= 8; ++bits) {
    const int64_t group = bits % 2 == 0 ? 32 : 64;
    const auto weight = random_weight({bits, true, group}, 32, 64, DType::kBF16, static_cast<unsigned>(bits));
    const auto packed = PackedWeight::pack(weight);
    const auto w = dequantized(weight);
    std::vector<float> unit(64 * 64, 0.0f);
    for (size_t c = 0; c < 64; ++c) unit[c * 65] = 1;
    for (const Compute compute : {Compute::kFloat, Compute::kInt8}) {
      const auto y = run(*packed, unit, {}, compute, 1.0f);
      for (size_t c = 0; c < 64; ++c) {
        const auto single =
            run(*packed, {unit.begin() + static_cast<long>(64 * c), unit.begin() + static_cast<long>(64 * c + 64)}, {},
                compute, 1.0f);
        for (size_t r = 0; r < 32; ++r) {
          ASSERT_EQ(y[c * 32 + r], w[r * 64 + c]) << bits << " bits";
          ASSERT_EQ(single[r], w[r * 64 + c]) << bits << " bits";
        }
      }
    }
  }
}

PackedWeight packed_floats(DType dtype, int64_t rows, int64_t cols, unsigned seed) {
  const auto values = random_floats(static_cast<size_t>(rows * cols), seed, 0.05f);
  std::vector<std::byte> bytes(values.size() * static_cast<size_t>(format::size_of(dtype)));
  format::from_float(dtype, values, bytes);
  return PackedWeight::pack(dtype, bytes, rows, cols).value();
}

TEST_P(LinearTest, GivesTheSameBytesWithAnyNumberOfThreads) {
  std::vector<PackedWeight> weights;
  weights.push_back(PackedWeight::pack(random_weight({4, false, 32}, 200, 256, DType::kBF16, 9)).value());
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16})
    weights.push_back(packed_floats(dtype, 200, 256, 9));
  for (const PackedWeight& weight : weights) {
    for (const size_t m : {1, 9}) {
      const auto x = random_floats(m * 256, 10);
      for (const Compute compute : {Compute::kFloat, Compute::kInt8}) {
        const auto one = run(weight, x, {}, compute);
        for (const int threads : {2, 3, 7}) EXPECT_EQ(run(weight, x, {}, compute, 0, threads), one);
      }
    }
  }
}

// Inputs of calls that run at once become rows of different kinds and lengths.
TEST_P(LinearTest, RunsKindsOfWeightsAtOnce) {
  const size_t cols = 384;
  std::vector<PackedWeight> weights;
  weights.push_back(packed_floats(DType::kBF16, 48, cols, 1));
  for (const QuantCase& kind : {QuantCase{8, true, 0}, {4, true, 24}, {4, false, 64}}) {
    weights.push_back(PackedWeight::pack(random_weight(kind, 48, cols, DType::kBF16, 3)).value());
  }
  weights.push_back(packed_floats(DType::kF32, 48, cols, 2));
  for (const size_t m : {1, 3, 9, 40}) {
    const auto x = random_floats(m * cols, 4);
    for (const Compute compute : {Compute::kFloat, Compute::kInt8}) {
      std::vector<std::vector<float>> alone;
      for (const PackedWeight& weight : weights) alone.push_back(run(weight, x, {}, compute));
      for (const int threads : {2, 3, 7}) {
        ThreadPool pool(threads);
        Linear linear(*GetParam(), pool);
        for (int repeat = 0; repeat < 10; ++repeat) {
          std::vector<std::vector<float>> y(weights.size(), std::vector<float>(m * 48));
          std::vector<LinearCall> calls;
          for (size_t i = 0; i < weights.size(); ++i) {
            calls.push_back({.weight = &weights[i],
                             .x = x.data(),
                             .x_stride = cols,
                             .m = static_cast<int64_t>(m),
                             .y = y[i].data(),
                             .y_stride = 48});
          }
          linear.run(calls, compute);
          ASSERT_EQ(y, alone) << m << " tokens, " << threads << " threads";
        }
      }
    }
  }
}

TEST_P(LinearTest, SharesTheInputOfNeighbouringCalls) {
  ThreadPool pool(2);
  Linear linear(*GetParam(), pool);
  const size_t cols = 128, m = 9;
  const auto x = random_floats(m * cols, 1), other = random_floats(m * cols, 2);
  std::vector<PackedWeight> weights;
  for (const QuantCase& kind : {QuantCase{4, true, 32}, {8, true, 0}, {4, true, 8}, {4, false, 64}, {4, true, 64}}) {
    weights.push_back(*PackedWeight::pack(random_weight(kind, 48, cols, DType::kBF16, 3)));
  }
  for (const Compute compute : {Compute::kFloat, Compute::kInt8}) {
    std::vector<std::vector<float>> y(weights.size(), std::vector<float>(m * 48));
    std::vector<LinearCall> calls;
    for (size_t i = 0; i < weights.size(); ++i) {
      calls.push_back({.weight = &weights[i],
                       .x = i == 4 ? other.data() : x.data(),
                       .x_stride = cols,
                       .m = m,
                       .y = y[i].data(),
                       .y_stride = 48});
    }
    linear.run(calls, compute);
    for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i], run(weights[i], i == 4 ? other : x, {}, compute)) << i;
  }
}

TEST_P(LinearTest, InfinityStaysInfinite) {
  const auto quantized = random_weight({4, true, 32}, 16, 64, DType::kBF16, 5);
  const PackedWeight integers = PackedWeight::pack(quantized).value(), halves = packed_floats(DType::kBF16, 16, 64, 5);
  for (const PackedWeight* weight : {&integers, &halves}) {
    for (const size_t m : {1, 8}) {
      std::vector<float> x(m * 64, 0.0f), row(64);
      for (size_t t = 0; t < m; ++t) x[t * 64] = INFINITY;
      const auto y = run(*weight, x, {}, Compute::kFloat);
      for (size_t i = 0; i < y.size(); ++i) {
        weight->row(static_cast<int64_t>(i % 16), row);
        const float expected = row[0] * INFINITY;  // not a number where the weight is zero
        EXPECT_TRUE(std::isnan(expected) ? std::isnan(y[i]) : y[i] == expected) << y[i];
      }
    }
  }
}

TEST_P(LinearTest, RunsSeveralCallsAtOnce) {
  ThreadPool pool(2);
  Linear linear(*GetParam(), pool);
  std::vector<PackedWeight> weights;
  std::vector<std::vector<float>> x, y, alone;
  const size_t tokens[] = {3, 0, 1, 40};
  for (unsigned i = 0; i < 4; ++i) {
    const size_t cols = i == 2 ? 48 : 64, rows = 20 + 30 * i;
    weights.push_back(*PackedWeight::pack(random_weight({4, true, i == 2 ? 8 : 32}, static_cast<int64_t>(rows),
                                                        static_cast<int64_t>(cols), DType::kF16, i)));
    x.push_back(random_floats(tokens[i] * cols, i));
    y.emplace_back(tokens[i] * rows);
  }
  for (const Compute compute : {Compute::kFloat, Compute::kInt8}) {
    std::vector<LinearCall> calls;
    for (size_t i = 0; i < 4; ++i) {
      calls.push_back({.weight = &weights[i],
                       .x = x[i].data(),
                       .x_stride = weights[i].cols(),
                       .m = static_cast<int64_t>(tokens[i]),
                       .y = y[i].data(),
                       .y_stride = weights[i].rows()});
    }
    linear.run(calls, compute);
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(y[i], run(weights[i], x[i], {}, compute)) << i;
  }
  linear.run(std::span<const LinearCall>(), Compute::kFloat);
}

TEST_P(LinearTest, QuantizesActivationsAsCompressedTensorsDoes) {
  const auto& quantize = GetParam()->quantize;
  const std::vector<float> x = {-2.55f, 1.0f, 0.0f, 2.54f, -0.01f, 0.03f, 0.0099f};
  std::vector<int8_t> q(x.size());
  EXPECT_FLOAT_EQ(quantize(x.data(), 7, 0, q.data()), 0.02f);
  EXPECT_EQ(q, (std::vector<int8_t>{-128, 50, 0, 127, 0, 2, 0}));
  EXPECT_EQ(quantize(x.data(), 7, 0.5f, q.data()), 0.5f);
  EXPECT_EQ(q, (std::vector<int8_t>{-5, 2, 0, 5, 0, 0, 0}));
  EXPECT_EQ(quantize(x.data(), 7, 0.001f, q.data()), 0.001f);
  EXPECT_EQ(q, (std::vector<int8_t>{-128, 127, 0, 127, -10, 30, 10}));
  const std::vector<float> zeros(40, 0.0f);
  q.assign(40, 1);
  EXPECT_EQ(quantize(zeros.data(), 40, 0, q.data()), 0x1p-23f);
  EXPECT_EQ(q, std::vector<int8_t>(40, 0));
}

TEST_P(LinearTest, WhatIsNoNumberStaysNone) {
  const PackedWeight weight = PackedWeight::pack(random_weight({8, true, -1}, 20, 100, DType::kF32, 5)).value();
  const std::vector<float> bias(20, 1.0f);
  for (const float none : {NAN, INFINITY, -INFINITY}) {
    for (const size_t place : {size_t{0}, size_t{57}, size_t{99}}) {
      for (const size_t m : {size_t{1}, size_t{2}, size_t{21}}) {  // the last with tiles where there are some
        for (const float scale : {0.0f, 0.02f}) {
          std::vector<float> x = random_floats(m * 100, 1);
          x[place] = none;
          const std::vector<float> y = run(weight, x, bias, Compute::kInt8, scale);
          for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(std::isnan(y[i]), i < 20) << i << " of " << m << " tokens";
        }
      }
    }
  }
}

TEST_P(LinearTest, QuantizesLikeTheReference) {
  for (const size_t n : {1, 15, 16, 17, 63, 64, 65, 127, 1000}) {
    for (const float scale : {0.0f, 0.01f}) {
      const auto x = random_floats(n, static_cast<unsigned>(n));
      std::vector<int8_t> q(n), expected(n);
      EXPECT_EQ(GetParam()->quantize(x.data(), static_cast<int64_t>(n), scale, q.data()),
                available().back()->quantize(x.data(), static_cast<int64_t>(n), scale, expected.data()));
      EXPECT_EQ(q, expected);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, LinearTest, testing::every_isa(), testing::isa_name);

}  // namespace
}  // namespace autoglm::kernels
