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
  encode(values, 64, {}, GgmlType::kQ8_0, bytes);
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

/// Relative squared error of normal values in a type.
double error_of(GgmlType type, std::span<const float> values, std::span<const float> weights = {}) {
  std::vector<std::byte> bytes(static_cast<size_t>(row_bytes(type, std::ssize(values))));
  encode(values, std::ssize(values), weights, type, bytes);
  std::vector<float> found(values.size());
  decode(type, bytes, found);
  double error = 0, power = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double weight = weights.empty() ? 1 : weights[i];
    error += weight * std::pow(static_cast<double>(found[i]) - values[i], 2);
    power += weight * std::pow(static_cast<double>(values[i]), 2);
  }
  return error / power;
}

std::vector<float> normal_values(size_t count) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 0.02F);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

TEST(GgmlBlock, RoundsFloatsAsWellAsTheBitsAllow) {
  const std::vector<float> values = normal_values(4096);
  const std::pair<GgmlType, double> bounds[] = {
      {GgmlType::kQ2_K, 0.09},   {GgmlType::kQ3_K, 0.025}, {GgmlType::kQ4_K, 0.006},
      {GgmlType::kQ5_K, 0.0015}, {GgmlType::kQ6_K, 4e-4},  {GgmlType::kQ4_0, 0.0075},
      {GgmlType::kQ4_1, 0.0065}, {GgmlType::kQ5_0, 0.002}, {GgmlType::kQ5_1, 0.0016}};
  for (const auto& [type, bound] : bounds) {
    EXPECT_LT(error_of(type, values), bound) << to_string(type);
    EXPECT_GT(error_of(type, values), bound / 3) << to_string(type);
  }
}

TEST(GgmlBlock, RoundsWhatMattersBetter) {
  const std::vector<float> values = normal_values(4096);
  std::vector<float> weights(values.size(), 0.01F);
  for (size_t i = 0; i < weights.size(); i += 8) weights[i] = 10;
  for (const GgmlType type : {GgmlType::kQ2_K, GgmlType::kQ3_K, GgmlType::kQ4_K, GgmlType::kQ4_0, GgmlType::kQ5_1}) {
    std::vector<std::byte> bytes(static_cast<size_t>(row_bytes(type, 4096)));
    encode(values, 4096, {}, type, bytes);
    std::vector<float> found(values.size());
    decode(type, bytes, found);
    double error = 0, power = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      error += weights[i] * std::pow(static_cast<double>(found[i]) - values[i], 2);
      power += weights[i] * std::pow(static_cast<double>(values[i]), 2);
    }
    EXPECT_LT(error_of(type, values, weights), 0.8 * error / power) << to_string(type);
  }
}

TEST(GgmlBlock, RoundsAllAlikeWithoutWeights) {
  const std::vector<float> values = normal_values(4096);
  std::vector<float> weights(values.size(), 0.01F);
  weights[5] = 10;
  for (const GgmlType type : {GgmlType::kQ4_0, GgmlType::kQ5_1, GgmlType::kQ3_K, GgmlType::kQ4_K}) {
    std::vector<std::byte> never(static_cast<size_t>(row_bytes(type, 4096))), no_longer = never;
    encode(values, 4096, {}, type, never);
    encode(values, 4096, std::span(weights).first(0), type, no_longer);  // memory of the matrix before
    EXPECT_EQ(never, no_longer) << to_string(type);
  }
}

TEST(GgmlBlock, BlocksDoNotDependOnTheirNeighbours) {
  const std::vector<float> values = normal_values(7 * 256);  // no multiple of how many are fitted at once
  std::vector<float> weights(values.size());
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = 0.1F + static_cast<float>(i % 7);
  for (const GgmlType type : {GgmlType::kQ4_0, GgmlType::kQ4_1, GgmlType::kQ5_1, GgmlType::kQ3_K, GgmlType::kQ4_K}) {
    std::vector<std::byte> together(static_cast<size_t>(row_bytes(type, std::ssize(values)))), alone;
    encode(values, std::ssize(values), weights, type, together);
    const auto count = static_cast<size_t>(block_values(type));
    for (size_t first = 0; first < values.size(); first += count) {
      std::vector<std::byte> block(static_cast<size_t>(row_bytes(type, block_values(type))));
      encode(std::span(values).subspan(first, count), block_values(type), std::span(weights).subspan(first, count),
             type, block);
      alone.insert(alone.end(), block.begin(), block.end());
    }
    EXPECT_EQ(together, alone) << to_string(type);
  }
}

/// Where all levels are one, least squares have no answer but noise.
TEST(GgmlBlock, NearlyConstantGroupsHarmNoOthers) {
  std::vector<float> values = normal_values(256), weights(256);
  for (size_t i = 0; i < values.size(); ++i) {
    weights[i] = 0.1F + static_cast<float>(i * i % 13);
    if (i < 64) values[i] = 0.05F + 1e-7F * static_cast<float>(i);
  }
  for (const GgmlType type : {GgmlType::kQ2_K, GgmlType::kQ4_K, GgmlType::kQ5_K, GgmlType::kQ4_1, GgmlType::kQ5_1}) {
    EXPECT_LT(error_of(type, values, weights), type == GgmlType::kQ2_K ? 0.08 : 0.008) << to_string(type);
  }
}

TEST(GgmlBlock, HoldsZerosAndConstants) {
  for (const GgmlType type : {GgmlType::kQ2_K, GgmlType::kQ3_K, GgmlType::kQ4_K, GgmlType::kQ5_K, GgmlType::kQ6_K,
                              GgmlType::kQ4_0, GgmlType::kQ4_1, GgmlType::kQ5_0, GgmlType::kQ5_1, GgmlType::kQ8_0}) {
    for (const float constant : {0.0F, 0.5F, -0.5F}) {
      const std::vector<float> values(256, constant);
      std::vector<std::byte> bytes(static_cast<size_t>(row_bytes(type, 256)));
      encode(values, 256, {}, type, bytes);
      std::vector<float> found(256);
      decode(type, bytes, found);
      for (const float value : found) EXPECT_NEAR(value, constant, 0.01) << to_string(type);
    }
  }
}

}  // namespace
}  // namespace autoglm::exports
