#pragma once
/// The element types of GGUF files, to and from floats and our integers: those that hold one scale for 32 values or
/// none, described here, and the super-blocks of ggml_kquant.h.
///
/// A row is a sequence of blocks; d and m are FP16, little-endian (ggml's block_q4_0 and the like):
///   Q4_0  18 bytes  d, 16 x u8: value i in the low half of byte i, value 16 + i in the high one     (q - 8) * d
///   Q4_1  20 bytes  d, m, 16 x u8 likewise                                                          q * d + m
///   Q5_0  22 bytes  d, u32 with the fifth bits (bit i is value i's), 16 x u8 likewise               (q - 16) * d
///   Q5_1  24 bytes  d, m, u32, 16 x u8 likewise                                                     q * d + m
///   Q8_0  34 bytes  d, 32 x i8                                                                      q * d
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "compress/export/difference.h"
#include "core/base/status.h"
#include "core/format/dtype.h"
#include "core/format/quantized_weight.h"

namespace autoglm::exports {

/// By ggml's numbers.
enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30
};

inline constexpr int64_t kBlock = 32;  ///< values of a quantized block that is no super-block

std::string_view to_string(GgmlType type);  ///< "Q4_0"
bool is_quantized(GgmlType type);
int64_t block_values(GgmlType type);  ///< 1, 32 or 256: a row is whole blocks
int64_t row_bytes(GgmlType type, int64_t cols);
GgmlType float_type(format::DType dtype);  ///< F32, F16 or BF16; F64 becomes F32

/// The type that holds these integers without rounding them again. kInvalidArgument says in words what does not fit:
/// the bits, the columns, the groups.
Result<GgmlType> exact_type(const format::QuantArgs& args, int64_t cols);

/// Rows of `weight` in the type that exact_type named. Scales are rounded to FP16, and so are the minima of Q4_1 and
/// Q5_1.
void encode(const format::QuantizedWeight& weight, GgmlType type, std::span<std::byte> out);

/// Rows of floats. Scales of integers are searched for the least squared error times `weights`, one for each column of
/// `cols` (empty: all alike); Q8_0 takes the largest magnitude / 127. Blocks are spread over threads.
void encode(std::span<const float> values, int64_t cols, std::span<const float> weights, GgmlType type,
            std::span<std::byte> out);

/// The values of whole blocks.
void decode(GgmlType type, std::span<const std::byte> bytes, std::span<float> out);

/// How far what `bytes` hold is from `floats`.
Difference difference_from(GgmlType type, std::span<const std::byte> bytes, std::span<const float> floats);

}  // namespace autoglm::exports
