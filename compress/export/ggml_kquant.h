#pragma once
/// GGUF's types of 256 values in a super-block, whose sub-blocks have small integer scales (ggml's block_q2_K to
/// block_q6_K): written from floats, by an error-minimising search.
///
///          sub-blocks    value             scales                        bytes   bits per value
///   Q2_K   16 of 16      d*s*q - m*z       4 bits each, unsigned         84      2.625
///   Q3_K   16 of 16      d*s*(q - 4)       6 bits, s in -32..31          110     3.4375
///   Q4_K   8 of 32       d*s*q - m*z       6 bits each, unsigned         144     4.5
///   Q5_K   8 of 32       d*s*q - m*z       6 bits each, unsigned         176     5.5
///   Q6_K   16 of 16      d*s*(q - 32)      8 bits, s in -128..127        210     6.5625
/// d and m (of the super-block) are FP16; s and z belong to a sub-block.
#include <cstddef>
#include <cstdint>
#include <span>

#include "compress/export/ggml_block.h"

namespace autoglm::exports {

inline constexpr int64_t kSuperBlock = 256;  ///< values of one

/// Writes one super-block. `values` and `weights` have kSuperBlock elements; the squared error times `weights` (how
/// much each column matters, at least 0; empty: all alike) is what is made small. The same input gives the same bytes.
void encode_super_block(GgmlType type, std::span<const float> values, std::span<const float> weights,
                        std::span<std::byte> out);

/// The values of one super-block.
void decode_super_block(GgmlType type, std::span<const std::byte> bytes, std::span<float> out);

}  // namespace autoglm::exports
