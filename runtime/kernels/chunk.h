#pragma once
/// Elements of a packed matrix by the definition of weight_view.h: the plain way to find and read them.
#include <cstring>

#include "runtime/kernels/weight_view.h"

namespace autoglm::kernels {

/// Where the bits of an element lie in one plane.
struct BitField {
  int64_t byte;  ///< from the beginning of `values`
  int shift;     ///< in that byte
  int width;     ///< of the plane
  int place;     ///< of the field's lowest bit in u
};

/// Calls `visit(BitField)` for each plane of [row, col], the widest first; `col` is a packed column. The fields of the
/// three columns that follow a multiple of 4 are in the three bytes that follow, at the same shift.
template <typename Visit>
void for_each_plane(const WeightView& view, int64_t row, int64_t col, const Visit& visit) {
  const int64_t chunks = view.packed_cols / kChunkCols;
  const int64_t lane = row % kBlockRows, quad = col % kChunkCols / 4;
  int64_t plane = (row / kBlockRows * chunks + col / kChunkCols) * view.bits * kVectorBytes;
  int place = 0;
  for (int width = 8; width >= 1; width /= 2) {
    if ((view.bits & width) == 0) continue;
    const int64_t fields = 8 / width;  // in one byte
    visit(BitField{.byte = plane + quad / fields * kVectorBytes + 4 * lane + col % 4,
                   .shift = static_cast<int>(quad % fields) * width,
                   .width = width,
                   .place = place});
    plane += width * kVectorBytes;
    place += width;
  }
}

/// u of the columns [first, last) of a row, multiples of 4, each in [0, 2^bits).
inline void read_row(const WeightView& view, int64_t row, int64_t first, int64_t last, uint8_t* u) {
  for (int64_t col = first; col < last; col += 4) {
    uint32_t quad = 0;
    for_each_plane(view, row, col, [&](const BitField& field) {
      uint32_t lane;
      std::memcpy(&lane, view.values + field.byte, sizeof lane);
      quad |= (lane >> field.shift & ((1u << field.width) - 1) * 0x01010101u) << field.place;
    });
    std::memcpy(u + (col - first), &quad, sizeof quad);
  }
}

/// Where the scale (and the zero point) of a packed column is.
inline int64_t scale_index(const WeightView& view, int64_t row, int64_t col) {
  return (row / kBlockRows * view.groups + col / view.scale_cols) * kBlockRows + row % kBlockRows;
}

/// The packed column of column `col`.
inline int64_t packed_column(const WeightView& view, int64_t col) {
  return col / view.group_cols * view.padded_group_cols + col % view.group_cols;
}

}  // namespace autoglm::kernels
