#include "compress/export/ggml_block.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace autoglm::exports {
namespace {

using format::QuantArgs;
using format::QuantizedWeight;
using format::Strategy;

QuantArgs args_of(int bits, bool symmetric, int64_t group) {
  return {.num_bits = bits,
          .symmetric = symmetric,
          .strategy = group > 0 ? Strategy::kGroup : Strategy::kChannel,
          .group_size = group};
}

/// Every integer and every zero point of the width, scales that FP16 holds.
QuantizedWeight random_weight(const QuantArgs& args, int64_t rows, int64_t cols) {
  std::mt19937 random(args.num_bits * 100 + args.group_size);
  QuantizedWeight weight{.args = args, .rows = rows, .cols = cols};
  const auto integer = [&] {
    return static_cast<int8_t>(args.q_min() + static_cast<int>(random() % (1U << args.num_bits)));
  };
  for (int64_t i = 0; i < rows * cols; ++i) weight.values.push_back(integer());
  for (int64_t i = 0; i < rows * args.groups(cols); ++i) {
    weight.scales.push_back(std::ldexp(static_cast<float>(128 + random() % 128), -16));
    if (!args.symmetric) weight.zero_points.push_back(integer());
  }
  return weight;
}

std::vector<float> through(const QuantizedWeight& weight, GgmlType type) {
  std::vector<std::byte> bytes(static_cast<size_t>(weight.rows * row_bytes(type, weight.cols)));
  encode(weight, type, bytes);
  std::vector<float> values(weight.values.size());
  decode(type, bytes, values);
  return values;
}

TEST(GgmlBlock, HoldsOurIntegersAsTheyAre) {
  for (const int64_t group : {0, 32, 64, 128}) {
    for (int bits = 2; bits <= 8; ++bits) {
      for (const bool symmetric : {true, false}) {
        const QuantArgs args = args_of(bits, symmetric, group);
        const auto type = exact_type(args, 128);
        if (!symmetric && bits > 5) {
          EXPECT_THAT(type.status().message(), testing::HasSubstr("with zero points"));
          continue;
        }
        ASSERT_TRUE(type.ok()) << type.status().message();
        const QuantizedWeight weight = random_weight(args, 5, 128);
        std::vector<float> wanted(weight.values.size());
        format::dequantize(weight, wanted);
        const std::vector<float> found = through(weight, *type);
        // Minima are sums that FP16 rounds: half a unit in the last place of 24 scales at most.
        const float bound = symmetric ? 0.0F : std::ldexp(48.0F * 256, -16 - 11);
        for (size_t i = 0; i < wanted.size(); ++i) {
          ASSERT_NEAR(found[i], wanted[i], bound) << to_string(*type) << " bits " << bits << " group " << group;
        }
      }
    }
  }
}

TEST(GgmlBlock, LaysOutABlockAsGgmlDoes) {
  QuantizedWeight weight{.args = args_of(5, true, 32), .rows = 1, .cols = 32};
  for (int i = 0; i < 32; ++i) weight.values.push_back(static_cast<int8_t>(i - 16));
  weight.scales = {1.0F};
  std::vector<std::byte> bytes(22);
  encode(weight, GgmlType::kQ5_0, bytes);
  EXPECT_EQ(bytes[0], std::byte{0x00});  // 1.0 in FP16
  EXPECT_EQ(bytes[1], std::byte{0x3C});
  for (int i = 2; i < 4; ++i) EXPECT_EQ(bytes[static_cast<size_t>(i)], std::byte{0x00});  // 0 to 15 have no fifth bit
  for (int i = 4; i < 6; ++i) EXPECT_EQ(bytes[static_cast<size_t>(i)], std::byte{0xFF});  // 16 to 31 have
  for (size_t i = 0; i < 16; ++i) EXPECT_EQ(bytes[6 + i], static_cast<std::byte>(i | i << 4));
}

TEST(GgmlBlock, RoundsFloatsToQ8) {
  std::vector<float> values(64);
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i)) * (i < 32 ? 1.0F : 0.0F);
  std::vector<std::byte> bytes(68);
  encode(values, GgmlType::kQ8_0, bytes);
  std::vector<float> found(64);
  decode(GgmlType::kQ8_0, bytes, found);
  for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(found[i], values[i], 0.5 / 127 + 1e-3);
  for (size_t i = 32; i < 64; ++i) EXPECT_EQ(found[i], 0.0F);  // a block of zeros has no scale
}

TEST(GgmlBlock, SaysWhatDoesNotFit) {
  EXPECT_THAT(exact_type(args_of(4, true, 32), 48).status().message(), testing::HasSubstr("rows of 48 values"));
  EXPECT_THAT(exact_type(args_of(4, true, 16), 64).status().message(), testing::HasSubstr("groups of 16"));
  EXPECT_THAT(exact_type(args_of(8, false, 0), 64).status().message(), testing::HasSubstr("compress symmetrically"));
}

}  // namespace
}  // namespace autoglm::exports
