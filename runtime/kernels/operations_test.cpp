/// Norm, rotary, SwiGLU, sums and conversions: every table against a definition in double.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/format/dtype.h"
#include "runtime/kernels/testing.h"

namespace autoglm::kernels {
namespace {

using testing::random_floats;

class OperationsTest : public ::testing::TestWithParam<const Kernels*> {
 protected:
  const Kernels& kernels_ = *GetParam();
};

constexpr size_t kSizes[] = {1, 2, 7, 15, 16, 17, 31, 32, 33, 64, 100, 257};

TEST_P(OperationsTest, RmsNorm) {
  for (const size_t n : kSizes) {
    const size_t rows = 3, stride = n + 5;
    auto x = random_floats(rows * stride, static_cast<unsigned>(n), 3);
    const auto weight = random_floats(n, 2);
    std::vector<float> y(rows * n, NAN);
    kernels_.rms_norm(x.data(), static_cast<int64_t>(stride), weight.data(), 1e-5f, 3, static_cast<int64_t>(n),
                      y.data(), static_cast<int64_t>(n));
    for (size_t row = 0; row < rows; ++row) {
      double squares = 0;
      for (size_t i = 0; i < n; ++i) squares += std::pow(x[row * stride + i], 2);
      for (size_t i = 0; i < n; ++i) {
        const double expected = x[row * stride + i] / std::sqrt(squares / static_cast<double>(n) + 1e-5) * weight[i];
        ASSERT_NEAR(y[row * n + i], expected, 2e-6 * std::abs(expected) + 1e-30);
      }
    }
    const auto before = x;  // in place, and nothing between the rows is touched
    kernels_.rms_norm(x.data(), static_cast<int64_t>(stride), weight.data(), 1e-5f, 3, static_cast<int64_t>(n),
                      x.data(), static_cast<int64_t>(stride));
    for (size_t row = 0; row < rows; ++row) {
      for (size_t i = 0; i < stride; ++i) {
        ASSERT_EQ(x[row * stride + i], i < n ? y[row * n + i] : before[row * stride + i]);
      }
    }
  }
}

TEST_P(OperationsTest, RmsNormOfTinyAndLargeRows) {
  for (const float size : {0.0f, 1e-20f, 1e15f}) {
    const std::vector<float> x(33, size), weight(33, 1.0f);
    std::vector<float> y(33);
    kernels_.rms_norm(x.data(), 33, weight.data(), 1e-5f, 1, 33, y.data(), 33);
    for (const float value : y) ASSERT_NEAR(value, size > 1 ? 1.0 : size / std::sqrt(1e-5), 1e-5) << size;
  }
}

TEST_P(OperationsTest, Rotary) {
  for (const bool interleaved : {false, true}) {
    for (const size_t pairs : {1, 2, 8, 15, 16, 17, 32, 64}) {
      for (const size_t rest : {0, 3, 32}) {
        const size_t tokens = 3, heads = 2, dims = 2 * pairs + rest, stride = heads * dims + 1;
        auto x = random_floats(tokens * stride, 1);
        const auto angles = random_floats(tokens * pairs, 2, 3);
        std::vector<float> cos, sin, expected = x;
        for (const float angle : angles) {
          cos.push_back(std::cos(angle));
          sin.push_back(std::sin(angle));
        }
        for (size_t t = 0; t < tokens; ++t) {
          for (size_t h = 0; h < heads; ++h) {
            for (size_t i = 0; i < pairs; ++i) {
              const size_t base = t * stride + h * dims;
              const size_t a = base + (interleaved ? 2 * i : i), b = interleaved ? a + 1 : a + pairs;
              const float c = cos[t * pairs + i], s = sin[t * pairs + i];
              expected[a] = x[a] * c - x[b] * s;
              expected[b] = x[b] * c + x[a] * s;
            }
          }
        }
        kernels_.rotary({.x = x.data(),
                         .stride = static_cast<int64_t>(stride),
                         .tokens = 3,
                         .heads = 2,
                         .head_dim = static_cast<int64_t>(dims),
                         .pairs = static_cast<int64_t>(pairs),
                         .cos = cos.data(),
                         .sin = sin.data(),
                         .interleaved = interleaved});
        for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], expected[i], 1e-6) << pairs << " pairs at " << i;
      }
    }
  }
}

TEST_P(OperationsTest, Swiglu) {
  for (const size_t n : kSizes) {
    auto gate = random_floats(n, 1, 10);
    const auto up = random_floats(n, 2);
    if (n > 10) {
      gate[0] = 1000;
      gate[1] = -1000;
      gate[2] = -87.5f;
      gate[3] = 0;
    }
    std::vector<float> y(n, NAN);
    kernels_.swiglu(gate.data(), up.data(), static_cast<int64_t>(n), y.data());
    for (size_t i = 0; i < n; ++i) {
      const double expected = gate[i] / (1 + std::exp(-static_cast<double>(gate[i]))) * up[i];
      ASSERT_NEAR(y[i], expected, 1e-6 * std::abs(expected) + 1e-30) << gate[i];
    }
    kernels_.swiglu(gate.data(), up.data(), static_cast<int64_t>(n), gate.data());
    EXPECT_EQ(gate, y);
  }
}

TEST_P(OperationsTest, AddScaled) {
  for (const size_t n : kSizes) {
    const auto x = random_floats(n, 1), y = random_floats(n, 2);
    auto sum = y;
    kernels_.add_scaled(x.data(), 0.3f, static_cast<int64_t>(n), sum.data());
    for (size_t i = 0; i < n; ++i) ASSERT_NEAR(sum[i], y[i] + 0.3f * x[i], 1e-6);
  }
}

TEST_P(OperationsTest, EveryHalfBecomesItsFloat) {
  std::vector<uint16_t> bits(65536 + 5);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  std::vector<float> f16(bits.size()), bf16(bits.size());
  const auto count = static_cast<int64_t>(bits.size());
  kernels_.f16_to_f32(reinterpret_cast<const std::byte*>(bits.data()), count, f16.data());
  kernels_.bf16_to_f32(reinterpret_cast<const std::byte*>(bits.data()), count, bf16.data());
  for (size_t i = 0; i < bits.size(); ++i) {
    const float half = format::fp16_to_float(bits[i]), brain = format::bf16_to_float(bits[i]);
    ASSERT_TRUE(f16[i] == half || (std::isnan(f16[i]) && std::isnan(half))) << i;
    ASSERT_TRUE(bf16[i] == brain || (std::isnan(bf16[i]) && std::isnan(brain))) << i;
  }
}

TEST_P(OperationsTest, RoundsToHalvesToNearestEven) {
  std::vector<float> x = random_floats(5000, 1, 100);
  const auto tiny = random_floats(500, 2, 1e-6f);
  x.insert(x.end(), tiny.begin(), tiny.end());
  for (const float v : {0.0f, -0.0f, 65504.0f, 65519.9f, 65520.0f, -1e9f, 3.4e38f, 1e-40f, INFINITY, -INFINITY,
                        1.0f + 0x1p-11f, 1.0f + 0x3p-11f, 1.0f + 0x1p-8f, 1.0f + 0x3p-8f, 0x1p-25f, 0x1.8p-24f}) {
    x.push_back(v);
  }
  const auto count = static_cast<int64_t>(x.size());
  std::vector<std::byte> f16(x.size() * 2), bf16(x.size() * 2);
  kernels_.f32_to_f16(x.data(), count, f16.data());
  kernels_.f32_to_bf16(x.data(), count, bf16.data());
  for (size_t i = 0; i < x.size(); ++i) {
    uint16_t half, brain;
    std::memcpy(&half, f16.data() + 2 * i, 2);
    std::memcpy(&brain, bf16.data() + 2 * i, 2);
    ASSERT_EQ(half, format::float_to_fp16(x[i])) << x[i];
    ASSERT_EQ(brain, format::float_to_bf16(x[i])) << x[i];
  }
  const float nan = NAN;
  uint16_t bits[2];
  kernels_.f32_to_f16(&nan, 1, reinterpret_cast<std::byte*>(&bits[0]));
  kernels_.f32_to_bf16(&nan, 1, reinterpret_cast<std::byte*>(&bits[1]));
  EXPECT_TRUE(std::isnan(format::fp16_to_float(bits[0])));
  EXPECT_TRUE(std::isnan(format::bf16_to_float(bits[1])));
}

INSTANTIATE_TEST_SUITE_P(Isa, OperationsTest, testing::every_isa(), testing::isa_name);

}  // namespace
}  // namespace autoglm::kernels
