#pragma once
/// WeightView: a packed matrix as the kernels see it, plain numbers and pointers.
///
/// Float weights (kF32, kF16, kBF16) lie row after row as a checkpoint stores them: element [r, c] at byte
/// (r * cols + c) * size, at any alignment, so that a mapped file is used where it is.
///
/// Quantized weights are made of tiles for instructions that multiply four bytes and add them up (vpdpbusd, sdot). The
/// unsigned value of an element is u = q + 2^(bits-1), with `bits` in 1..8. 16 rows are a block, 32 columns of a block
/// are a chunk:
///
///   values   [blocks][chunks] chunks of bits * 64 bytes. A chunk is a sequence of bit planes, the widest first, whose
///            widths add up to `bits` (8 | 4 + 2 + 1 of what is needed: 7 = 4+2+1, 6 = 4+2, 5 = 4+1, 3 = 2+1). The
///            widest plane holds the lowest bits of u. A plane of width w has w vectors of 64 bytes; byte 4 * row + j
///            of vector v holds at bits [p*w, (p+1)*w) the column 4 * (v * 8/w + p) + j. That is: a vector is sixteen
///            32-bit lanes, one for each row; shifted right by p*w and masked, a lane is four consecutive columns.
///   scales   [blocks][groups][16] of scale_type: real = (q - zero) * scale. Rows beyond the matrix have scale 0.
///   zeros    [blocks][groups][16] int8, only when asymmetric.
///
/// A scale covers `scale_cols` packed columns, 16 or a multiple of 32. A group of another size is padded to the next
/// multiple of 16 columns (`group_cols` real ones, then zeros up to `padded_group_cols`), and the columns to a multiple
/// of 32 at the end; what multiplies padding is zero, so the value stored there does not matter.
#include <cstddef>
#include <cstdint>

namespace autoglm::kernels {

enum class WeightType : uint8_t { kF32, kF16, kBF16, kQuantized };
enum class ScaleType : uint8_t { kF32, kF16, kBF16 };

inline constexpr int64_t kBlockRows = 16;
inline constexpr int64_t kChunkCols = 32;
inline constexpr int64_t kVectorBytes = 64;
/// Groups longer than this get their scale several times over: 2^15 products of u8 and s8 fit in int32.
inline constexpr int64_t kMaxScaleCols = 1 << 15;

struct WeightView {
  WeightType type = WeightType::kF32;
  ScaleType scale_type = ScaleType::kF32;
  int bits = 0;
  int64_t rows = 0, cols = 0;
  int64_t group_cols = 0, padded_group_cols = 0;
  int64_t packed_cols = 0;  ///< columns that the kernels run over; float weights: cols
  int64_t scale_cols = 0;
  int64_t groups = 0;  ///< scales of a row: ceil(packed_cols / scale_cols)
  const std::byte* values = nullptr;
  const std::byte* scales = nullptr;
  const int8_t* zeros = nullptr;  ///< nullptr: symmetric

  /// True when the input's columns must be moved apart to where packing put them.
  bool is_spread() const { return packed_cols != cols; }
};

}  // namespace autoglm::kernels
