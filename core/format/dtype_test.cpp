#include "core/format/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

namespace autoglm::format {
namespace {

/// A small float's value by its definition (IEEE 754-2019, 3.4), for the exhaustive tests.
double value_by_definition(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const auto exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const uint32_t mantissa = bits & ((1u << mantissa_bits) - 1);
  const double sign = bits >> (exponent_bits + mantissa_bits) & 1 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) {
    return mantissa == 0 ? sign * std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  }
  return exponent == 0 ? sign * std::ldexp(mantissa, 1 - bias - mantissa_bits)
                       : sign * std::ldexp(mantissa + (1u << mantissa_bits), exponent - bias - mantissa_bits);
}

void expect_same(float actual, double expected, uint32_t bits) {
  if (std::isnan(expected)) {
    EXPECT_TRUE(std::isnan(actual)) << bits;
  } else {
    EXPECT_EQ(static_cast<double>(actual), expected) << bits;
    EXPECT_EQ(std::signbit(actual), std::signbit(expected)) << bits;
  }
}

TEST(DType, DecodesEveryHalf) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    expect_same(fp16_to_float(static_cast<uint16_t>(bits)), value_by_definition(bits, 5, 10), bits);
    expect_same(bf16_to_float(static_cast<uint16_t>(bits)), value_by_definition(bits, 8, 7), bits);
  }
}

TEST(DType, FindsTheFirstThatIsNotFinite) {
  const auto bytes_of = [](const auto& values, size_t skipped) {
    std::vector<std::byte> bytes(skipped + values.size() * sizeof values[0]);
    std::memcpy(bytes.data() + skipped, values.data(), bytes.size() - skipped);
    return bytes;
  };
  const auto find = [&](DType dtype, const auto& values) {
    const std::vector<std::byte> aligned = bytes_of(values, 0), shifted = bytes_of(values, 1);
    EXPECT_EQ(first_non_finite(dtype, std::span(shifted).subspan(1)), first_non_finite(dtype, aligned));
    return first_non_finite(dtype, aligned);
  };
  for (const DType dtype : {DType::kF8E4M3, DType::kF8E5M2, DType::kF8E8M0, DType::kF16, DType::kBF16}) {
    for (uint32_t bits = 0; bits < (size_of(dtype) == 1 ? 256u : 65536u); ++bits) {
      const auto pattern = static_cast<uint16_t>(bits);  // little-endian: its first byte is the small float
      const std::span<const std::byte> element(reinterpret_cast<const std::byte*>(&pattern),
                                               static_cast<size_t>(size_of(dtype)));
      float value = 0;
      to_float(dtype, element, {&value, 1});
      EXPECT_EQ(first_non_finite(dtype, element), std::isfinite(value) ? -1 : 0) << to_string(dtype) << " " << bits;
    }
  }
  std::vector<float> floats(10'000, std::numeric_limits<float>::max());
  EXPECT_EQ(find(DType::kF32, floats), -1);
  floats[9'999] = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(find(DType::kF32, floats), 9'999);
  floats[4'097] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(find(DType::kF32, floats), 4'097);
  std::vector<double> doubles(5, std::numeric_limits<double>::lowest());
  EXPECT_EQ(find(DType::kF64, doubles), -1);
  doubles[3] = std::numeric_limits<double>::infinity();
  EXPECT_EQ(find(DType::kF64, doubles), 3);
  EXPECT_EQ(find(DType::kI32, std::vector<int32_t>{-1, 0x7F800000}), -1);
  EXPECT_EQ(first_non_finite(DType::kF32, {}), -1);
}

TEST(DType, HalvesSurviveTheWayThroughFloat) {
  for (uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<uint16_t>(i);
    if (const float half = fp16_to_float(bits); !std::isnan(half)) {
      EXPECT_EQ(float_to_fp16(half), bits);
    }
    if (const float bfloat = bf16_to_float(bits); !std::isnan(bfloat)) {
      EXPECT_EQ(float_to_bf16(bfloat), bits);
    }
  }
}

/// The nearest value, ties to the even pattern: checked against the two neighbours of every result. Rounding beyond the
/// largest value goes as if the next power of two were a value.
template <typename Encode, typename Decode>
void expect_nearest_even(float value, double limit, Encode encode, Decode decode) {
  const uint16_t bits = encode(value);
  const double exact = std::abs(static_cast<double>(value));
  const auto magnitude = static_cast<uint16_t>(bits & 0x7FFF);
  EXPECT_EQ(bits >> 15, static_cast<int>(std::signbit(value)));
  const auto as_number = [&](uint16_t m) {
    const double d = decode(m);
    return std::isinf(d) ? limit : d;
  };
  const double chosen = std::abs(as_number(magnitude) - std::min(exact, limit));
  if (magnitude > 0) {
    const double below = std::abs(as_number(static_cast<uint16_t>(magnitude - 1)) - std::min(exact, limit));
    EXPECT_TRUE(chosen < below || (chosen == below && magnitude % 2 == 0)) << value;
  }
  if (!std::isinf(decode(magnitude))) {
    const double above = std::abs(as_number(static_cast<uint16_t>(magnitude + 1)) - exact);
    EXPECT_TRUE(chosen < above || (chosen == above && magnitude % 2 == 0)) << value;
  }
}

TEST(DType, RoundsToNearestEven) {
  std::mt19937 random(1);
  const auto check = [](float value) {
    if (std::isnan(value)) return;
    expect_nearest_even(value, 65536.0, float_to_fp16, fp16_to_float);
    expect_nearest_even(value, std::ldexp(1.0, 128), float_to_bf16, bf16_to_float);
  };
  for (int i = 0; i < 300'000; ++i) check(std::bit_cast<float>(static_cast<uint32_t>(random())));
  // Every midpoint between neighbouring halves, and the floats beside it.
  for (uint16_t bits = 0; bits < 0x7C00; ++bits) {
    const float next = bits == 0x7BFF ? 65536.0f : fp16_to_float(static_cast<uint16_t>(bits + 1));
    const float middle = (fp16_to_float(bits) + next) / 2;
    for (const float value : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)})
      check(value), check(-value);
  }
}

// As torch 2.13 converts: torch.tensor(x).to(torch.float16 / torch.bfloat16).view(torch.int16).
TEST(DType, AgreesWithTorchAtTheEdges) {
  EXPECT_EQ(float_to_fp16(65504.0f), 0x7BFF);
  EXPECT_EQ(float_to_fp16(65519.996f), 0x7BFF);
  EXPECT_EQ(float_to_fp16(65520.0f), 0x7C00);
  EXPECT_EQ(float_to_fp16(1e30f), 0x7C00);
  EXPECT_EQ(float_to_fp16(-std::numeric_limits<float>::infinity()), 0xFC00);
  EXPECT_EQ(float_to_fp16(5.9604645e-8f), 0x0001);
  EXPECT_EQ(float_to_fp16(2.9802322e-8f), 0x0000);
  EXPECT_EQ(float_to_fp16(-2.9802326e-8f), 0x8001);
  EXPECT_EQ(float_to_bf16(3.3895314e38f), 0x7F7F);
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7F80);
  EXPECT_EQ(float_to_bf16(1.00390625f), 0x3F80);
  EXPECT_EQ(float_to_bf16(1.01171875f), 0x3F82);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float low_payload = std::bit_cast<float>(0x7F800001u);  // its upper half alone would be infinity
  for (const float value : {nan, -nan, low_payload}) {
    EXPECT_TRUE(std::isnan(fp16_to_float(float_to_fp16(value))));
    EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(value))));
  }
}

TEST(DType, DecodesEveryByteFloat) {
  for (uint32_t i = 0; i < 256; ++i) {
    const auto byte = static_cast<std::byte>(i);
    float value = 0;
    to_float(DType::kF8E5M2, {&byte, 1}, {&value, 1});
    expect_same(value, value_by_definition(i, 5, 2), i);
    to_float(DType::kF8E8M0, {&byte, 1}, {&value, 1});
    expect_same(value, i == 255 ? std::nan("") : std::ldexp(1.0, static_cast<int>(i) - 127), i);
    to_float(DType::kF8E4M3, {&byte, 1}, {&value, 1});
    // E4M3FN gives the exponent of infinities to numbers, all but its last pattern.
    const double sign = i & 128 ? -1 : 1;
    const double top = sign * std::ldexp(8 + (i & 7), 5);
    expect_same(value, (i & 127) == 127 ? std::nan("") : (i & 120) == 120 ? top : value_by_definition(i, 4, 3), i);
  }
}

template <typename T>
void expect_number(DType dtype, T number, float expected) {
  std::vector<std::byte> bytes(3 * sizeof(T) + 1);
  for (size_t i = 0; i < 3; ++i) std::memcpy(bytes.data() + 1 + i * sizeof(T), &number, sizeof(T));
  std::vector<float> out(3);
  to_float(dtype, std::span(bytes).subspan(1), out);  // not aligned
  EXPECT_EQ(out, std::vector<float>(3, expected)) << to_string(dtype);
}

TEST(DType, DecodesNumbersAtAnyAlignment) {
  expect_number<uint8_t>(DType::kBool, 2, 1.0f);
  expect_number<uint8_t>(DType::kU8, 200, 200.0f);
  expect_number<int8_t>(DType::kI8, -128, -128.0f);
  expect_number<uint16_t>(DType::kU16, 65535, 65535.0f);
  expect_number<int16_t>(DType::kI16, -5, -5.0f);
  expect_number<uint32_t>(DType::kU32, 1u << 31, 2147483648.0f);
  expect_number<int32_t>(DType::kI32, -7, -7.0f);
  expect_number<uint64_t>(DType::kU64, 1ull << 63, 9223372036854775808.0f);
  expect_number<int64_t>(DType::kI64, -9, -9.0f);
  expect_number<float>(DType::kF32, 0.1f, 0.1f);
  expect_number<double>(DType::kF64, 0.1, 0.1f);
  expect_number<uint16_t>(DType::kF16, 0x3C00, 1.0f);
  expect_number<uint16_t>(DType::kBF16, 0x3F80, 1.0f);
}

TEST(DType, EncodesAtAnyAlignmentAndLength) {
  std::mt19937 random(2);
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
    for (size_t n = 0; n < 70; ++n) {
      std::vector<float> in(n), out(n);
      for (float& value : in)
        value = static_cast<float>(static_cast<int>(random() % 255) - 127);  // exact in every type
      std::vector<std::byte> bytes(n * static_cast<size_t>(size_of(dtype)) + 2, std::byte{0xEE});
      from_float(dtype, in, std::span(bytes).subspan(1));
      to_float(dtype, std::span(bytes).subspan(1), out);
      EXPECT_EQ(in, out) << to_string(dtype) << " " << n;
      EXPECT_EQ(bytes.front(), std::byte{0xEE});
      EXPECT_EQ(bytes.back(), std::byte{0xEE});
    }
  }
}

TEST(DType, CountsElementsWithoutOverflow) {
  EXPECT_EQ(element_count({}), 1);
  EXPECT_EQ(element_count({3, 4}), 12);
  EXPECT_EQ(element_count({3, 0}), 0);
  EXPECT_EQ(element_count({INT64_MAX}), INT64_MAX);
  EXPECT_EQ(element_count({-1}), std::nullopt);
  EXPECT_EQ(element_count({int64_t{1} << 32, int64_t{1} << 31}), std::nullopt);
  EXPECT_EQ(element_count({0, int64_t{1} << 32, int64_t{1} << 31}), std::nullopt);
}

}  // namespace
}  // namespace autoglm::format
