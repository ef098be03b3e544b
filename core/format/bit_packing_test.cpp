#include "core/format/bit_packing.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace autoglm::format {
namespace {

/// The layout by its definition, bit by bit.
std::vector<uint32_t> pack_by_definition(const std::vector<int8_t>& values, int bits) {
  std::vector<uint32_t> words((values.size() * static_cast<size_t>(bits) + 31) / 32, 0);
  for (size_t i = 0; i < values.size(); ++i) {
    const auto shifted = static_cast<uint32_t>(values[i] + (1 << (bits - 1)));
    for (int b = 0; b < bits; ++b) {
      const size_t bit = i * static_cast<size_t>(bits) + static_cast<size_t>(b);
      words[bit / 32] |= (shifted >> b & 1u) << (bit % 32);
    }
  }
  return words;
}

std::vector<int8_t> random_values(size_t count, int bits, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int8_t> values(count);
  for (int8_t& v : values) v = static_cast<int8_t>(static_cast<int>(random() % (1u << bits)) - (1 << (bits - 1)));
  return values;
}

TEST(BitPacking, FollowsTheLayoutAtEveryWidthAndLength) {
  for (int bits = 1; bits <= 8; ++bits) {
    for (size_t count = 0; count < 140; ++count) {
      const std::vector<int8_t> values = random_values(count, bits, static_cast<unsigned>(count));
      std::vector<uint32_t> words(static_cast<size_t>(packed_words(static_cast<int64_t>(count), bits)), 0xDEADBEEF);
      pack_row(values, bits, words);
      EXPECT_EQ(words, pack_by_definition(values, bits)) << bits << " bits, " << count;
      std::vector<int8_t> back(count, 77);
      unpack_row(words, bits, back);
      EXPECT_EQ(back, values) << bits << " bits, " << count;
    }
  }
}

TEST(BitPacking, HoldsEveryValueAtEveryPlace) {
  for (int bits = 1; bits <= 8; ++bits) {
    for (int value = -(1 << (bits - 1)); value < 1 << (bits - 1); ++value) {
      for (size_t place = 0; place < 32; ++place) {
        std::vector<int8_t> values(32, static_cast<int8_t>(-(1 << (bits - 1))));
        values[place] = static_cast<int8_t>(value);
        std::vector<uint32_t> words(static_cast<size_t>(bits));
        pack_row(values, bits, words);
        EXPECT_EQ(words, pack_by_definition(values, bits));
        std::vector<int8_t> back(32);
        unpack_row(words, bits, back);
        EXPECT_EQ(back, values);
      }
    }
  }
}

TEST(BitPacking, IgnoresGarbageInThePadding) {
  for (int bits = 1; bits <= 8; ++bits) {
    const std::vector<int8_t> values = random_values(5, bits, 3);
    std::vector<uint32_t> words = pack_by_definition(values, bits);
    if (5 * bits % 32 != 0) words.back() |= ~uint32_t{0} << (5 * bits % 32);
    std::vector<int8_t> back(5);
    unpack_row(words, bits, back);
    EXPECT_EQ(back, values);
  }
}

// A bound far below what is measured (docs/FORMATS.md), so that only a collapse to bit-by-bit work fails it.
}  // namespace
}  // namespace autoglm::format
