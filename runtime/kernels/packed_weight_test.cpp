#include "runtime/kernels/packed_weight.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "runtime/kernels/testing.h"

namespace autoglm::kernels {
namespace {

using format::DType;
using testing::random_weight;

std::vector<float> rows_of(const PackedWeight& packed) {
  std::vector<float> out(static_cast<size_t>(packed.rows() * packed.cols()));
  for (int64_t r = 0; r < packed.rows(); ++r) {
    packed.row(r, std::span(out).subspan(static_cast<size_t>(r * packed.cols()), static_cast<size_t>(packed.cols())));
  }
  return out;
}

std::vector<float> dequantized(const format::QuantizedWeight& weight) {
  std::vector<float> out(weight.values.size());
  format::dequantize(weight, out);
  return out;
}

TEST(PackedWeight, GivesBackEveryValueAtEveryWidthAndGroup) {
  unsigned seed = 0;
  for (int bits = 1; bits <= 8; ++bits) {
    for (const bool symmetric : {true, false}) {
      for (const int64_t group : {0, -1, 2, 8, 16, 24, 32, 48, 64, 96, 128}) {
        const int64_t cols = group > 0 ? group * 3 : 75;
        const auto weight = random_weight({bits, symmetric, group}, 19, cols, DType::kF16, ++seed);
        auto packed = PackedWeight::pack(weight);
        ASSERT_TRUE(packed.ok()) << packed.status().message();
        EXPECT_EQ(rows_of(*packed), dequantized(weight)) << bits << " bits, group " << group;
      }
    }
  }
}

// The example of weight_view.h, byte by byte: 6 bits are a plane of 4 and a plane of 2.
TEST(PackedWeight, LaysOutBitPlanesAsDescribed) {
  auto weight = random_weight({6, true, 32}, 16, 64, DType::kBF16, 1);
  const auto packed = PackedWeight::pack(weight);
  ASSERT_TRUE(packed.ok());
  const auto byte = [&](int64_t i) { return static_cast<int>(packed->bytes()[static_cast<size_t>(i)]); };
  for (int64_t row = 0; row < 16; ++row) {
    for (int64_t col = 0; col < 64; ++col) {
      const int u = weight.values[static_cast<size_t>(row * 64 + col)] + 32;
      const int64_t chunk = col / 32 * 6 * 64, quad = col % 32 / 4;
      EXPECT_EQ(byte(chunk + quad / 2 * 64 + 4 * row + col % 4) >> (4 * (quad % 2)) & 15, u & 15);
      EXPECT_EQ(byte(chunk + 256 + quad / 4 * 64 + 4 * row + col % 4) >> (2 * (quad % 4)) & 3, u >> 4);
    }
  }
}

TEST(PackedWeight, TakesRowsPieceByPieceAndJoinsMatrices) {
  const auto whole = random_weight({4, false, 32}, 50, 96, DType::kBF16, 3);
  auto shape = PackedShape::of(whole.args, whole.scale_dtype, 50, 96);
  ASSERT_TRUE(shape.ok());
  auto packed = PackedWeight::allocate(*shape);
  ASSERT_TRUE(packed.ok());
  for (int64_t first = 0; first < 50; first += 7) {
    format::QuantizedWeight piece = whole;
    piece.rows = std::min<int64_t>(7, 50 - first);
    const auto cut = [&](auto& values, int64_t per_row) {
      values = {values.begin() + first * per_row, values.begin() + (first + piece.rows) * per_row};
    };
    cut(piece.values, 96);
    cut(piece.scales, 3);
    cut(piece.zero_points, 3);
    ASSERT_TRUE(packed->set_rows(first, piece).ok());
  }
  EXPECT_EQ(rows_of(*packed), dequantized(whole));
  const auto at_once = PackedWeight::pack(whole);
  ASSERT_EQ(at_once->bytes().size(), packed->bytes().size());
  EXPECT_EQ(std::memcmp(at_once->bytes().data(), packed->bytes().data(), packed->bytes().size()), 0);
}

TEST(PackedWeight, BeginsAtAHugePageWhereItFillsOne) {
  constexpr int64_t kCols = 1024;
  for (const int64_t rows : {1, 511, 512, 513, 1300}) {  // of 4 KB
    const auto shape = PackedShape::of(DType::kF32, rows, kCols);
    auto packed = PackedWeight::allocate(*shape);
    ASSERT_TRUE(packed.ok());
    const auto address = reinterpret_cast<uintptr_t>(packed->bytes().data());
    EXPECT_TRUE(rows < 512 || address % (2 << 20) == 0);
    const auto values = testing::random_floats(static_cast<size_t>(rows * kCols), 1);
    ASSERT_TRUE(packed->set_rows(0, std::as_bytes(std::span(values))).ok());
    EXPECT_EQ(std::memcmp(packed->bytes().data(), values.data(), packed->bytes().size()), 0);
  }
}

TEST(PackedWeight, ViewsItsOwnBytes) {
  const auto weight = random_weight({5, false, 64}, 33, 128, DType::kF32, 4);
  const auto packed = PackedWeight::pack(weight);
  ASSERT_TRUE(packed.ok());
  const auto view = PackedWeight::view(packed->shape(), packed->bytes());
  ASSERT_TRUE(view.ok());
  EXPECT_EQ(rows_of(*view), dequantized(weight));
  EXPECT_EQ(PackedWeight::view(packed->shape(), packed->bytes().first(packed->bytes().size() - 64)).status().code(),
            StatusCode::kBadInput);
  std::vector<std::byte> shifted(packed->bytes().size() + 128);
  const size_t misaligned = (64 - reinterpret_cast<uintptr_t>(shifted.data()) % 64) % 64 + 8;
  EXPECT_EQ(PackedWeight::view(packed->shape(), std::span(shifted).subspan(misaligned, packed->bytes().size()))
                .status()
                .code(),
            StatusCode::kBadInput);
}

TEST(PackedWeight, KeepsFloatsAsStored) {
  const std::vector<float> values = testing::random_floats(7 * 13, 5);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    std::vector<std::byte> bytes(values.size() * static_cast<size_t>(format::size_of(dtype)) + 1);
    const auto stored = std::span(bytes).subspan(1);  // at an odd address, as in a mapped file
    format::from_float(dtype, values, stored);
    std::vector<float> rounded(values.size());
    format::to_float(dtype, stored, rounded);
    const auto packed = PackedWeight::pack(dtype, stored, 7, 13);
    ASSERT_TRUE(packed.ok());
    EXPECT_EQ(rows_of(*packed), rounded);
    const auto view = PackedWeight::view(packed->shape(), stored);
    ASSERT_TRUE(view.ok());
    EXPECT_EQ(rows_of(*view), rounded);
  }
}

TEST(PackedWeight, RefusesWhatMakesNoMatrix) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  const format::QuantArgs args{.num_bits = 4, .strategy = format::Strategy::kGroup, .group_size = 32};
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{0, 32},
                                   {32, 0},
                                   {-1, 32},
                                   {32, -5},
                                   {kMost, 32},
                                   {32, kMost},
                                   {int64_t{1} << 40, int64_t{1} << 24}}) {
    EXPECT_EQ(PackedShape::of(args, DType::kBF16, rows, cols).status().code(), StatusCode::kBadInput);
    EXPECT_EQ(PackedShape::of(DType::kBF16, rows, cols).status().code(), StatusCode::kBadInput);
  }
  EXPECT_FALSE(PackedShape::of(DType::kI8, 4, 4).ok());
  EXPECT_FALSE(PackedShape::of(args, DType::kI32, 4, 32).ok());
  for (PackedShape wrong :
       {PackedShape{.type = WeightType::kQuantized, .rows = 1, .cols = 1, .bits = 9, .group_cols = 1},
        PackedShape{.type = WeightType::kQuantized, .rows = 1, .cols = 1, .bits = 4},
        PackedShape{.type = static_cast<WeightType>(9), .rows = 1, .cols = 1}}) {
    EXPECT_EQ(wrong.layout().status().code(), StatusCode::kBadInput);
  }
}

TEST(PackedWeight, RefusesRowsThatDoNotFit) {
  auto weight = random_weight({4, true, 32}, 8, 64, DType::kBF16, 6);
  auto packed = PackedWeight::pack(weight);
  ASSERT_TRUE(packed.ok());
  EXPECT_FALSE(packed->set_rows(1, weight).ok());
  EXPECT_FALSE(packed->set_rows(-1, weight).ok());
  EXPECT_FALSE(packed->set_rows(0, random_weight({3, true, 32}, 8, 64, DType::kBF16, 6)).ok());
  EXPECT_FALSE(packed->set_rows(0, random_weight({4, true, 64}, 8, 64, DType::kBF16, 6)).ok());
  EXPECT_FALSE(packed->set_rows(0, random_weight({4, true, 32}, 8, 64, DType::kF16, 6)).ok());
  weight.scales.pop_back();
  EXPECT_FALSE(packed->set_rows(0, weight).ok());
  const std::vector<std::byte> floats(64);
  EXPECT_FALSE(packed->set_rows(0, floats).ok());
  auto view = PackedWeight::view(packed->shape(), packed->bytes());
  EXPECT_FALSE(view->set_rows(0, random_weight({4, true, 32}, 8, 64, DType::kBF16, 6)).ok());
}

}  // namespace
}  // namespace autoglm::kernels
