#pragma once
/// Bit packing of small signed integers, as compressed-tensors' pack-quantized stores them.
///
/// A value of `bits` width is shifted to unsigned (q + 2^(bits-1)); value i of a row lies at bits [i*bits, (i+1)*bits)
/// of one stream, lowest bit first, read as little-endian 32-bit words: 32 values fill exactly `bits` words. The rest
/// of the last word is zero.
#include <cstdint>
#include <span>

namespace autoglm::format {

/// Words that `count` values of `bits` width take; both are in range (1..8, and what fits in memory).
constexpr int64_t packed_words(int64_t count, int bits) { return count / 32 * bits + (count % 32 * bits + 31) / 32; }

/// Packs `values`, each in [-2^(bits-1), 2^(bits-1)), into packed_words(values.size(), bits) words, overwritten.
void pack_row(std::span<const int8_t> values, int bits, std::span<uint32_t> words);

/// The inverse; values.size() says how many are taken out of `words`.
void unpack_row(std::span<const uint32_t> words, int bits, std::span<int8_t> values);

}  // namespace autoglm::format
