#pragma once
/// PackedWeight: one matrix in the layout of weight_view.h, owned or inside a mapped file.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "core/format/dtype.h"
#include "core/format/quantized_weight.h"
#include "runtime/kernels/weight_view.h"

namespace autoglm::kernels {

/// What decides the layout of a packed matrix, and so what a file must record to map it again.
struct PackedShape {
  WeightType type = WeightType::kF32;
  int64_t rows = 0, cols = 0;
  int bits = 0;                            ///< quantized: 1..8, else 0
  int64_t group_cols = 0;                  ///< quantized: columns per scale, `cols` for one scale per row; else 0
  bool symmetric = true;                   ///< quantized without zero points
  ScaleType scale_type = ScaleType::kF32;  ///< quantized

  /// Of quantized rows (tensor strategy: the scale of each row is the tensor's) and of float ones.
  static Result<PackedShape> of(const format::QuantArgs& args, format::DType scale_dtype, int64_t rows, int64_t cols);
  static Result<PackedShape> of(format::DType dtype, int64_t rows, int64_t cols);

  /// Sizes and pointers of the layout, all pointers null; kBadInput for numbers that make no matrix or whose bytes do
  /// not fit in int64_t.
  Result<WeightView> layout() const;
  Result<int64_t> bytes() const;  ///< of all its parts; errors of `layout`
  bool operator==(const PackedShape&) const = default;
};

/// Move-only. Reading is thread-safe; so is set_rows on pieces that share no block of kBlockRows rows.
class PackedWeight {
 public:
  PackedWeight() = default;

  /// Memory for a matrix, 64-byte aligned (in huge pages where the system has them), to be filled by set_rows; all
  /// zero until then. kResourceExhausted when there is not enough.
  static Result<PackedWeight> allocate(const PackedShape& shape);

  /// The whole of a quantized or float matrix. `bytes` are row after row in `dtype` (F32, F16, BF16).
  static Result<PackedWeight> pack(const format::QuantizedWeight& weight);
  static Result<PackedWeight> pack(format::DType dtype, std::span<const std::byte> bytes, int64_t rows, int64_t cols);

  /// A matrix that lies in memory of the caller, which must outlive it: `bytes()` of another one, or a float matrix of
  /// a mapped checkpoint. kBadInput when the size is not that of `shape`; quantized ones must be 64-byte aligned.
  /// Quantized bytes are taken as they are: any value is safe to compute with.
  static Result<PackedWeight> view(const PackedShape& shape, std::span<const std::byte> bytes);

  /// Puts rows [first, first + count) where they belong, so that a large matrix is never held twice; also joins
  /// matrices that share their input (q, k, v) below one another. kBadInput when the piece does not fit the shape.
  Status set_rows(int64_t first, const format::QuantizedWeight& piece);
  Status set_rows(int64_t first, std::span<const std::byte> piece);  ///< float rows in the shape's own type

  const PackedShape& shape() const { return shape_; }
  const WeightView& view() const { return view_; }
  int64_t rows() const { return shape_.rows; }
  int64_t cols() const { return shape_.cols; }
  bool is_quantized() const { return shape_.type == WeightType::kQuantized; }
  std::span<const std::byte> bytes() const { return bytes_; }

  /// out[c] = the real value of [row, c]; `out` holds cols() floats (an embedding's row).
  void row(int64_t row, std::span<float> out) const;

 private:
  struct Unmap {
    size_t size;
    void operator()(std::byte* memory) const;
  };
  void attach(std::span<const std::byte> bytes);

  PackedShape shape_;
  WeightView view_;
  std::span<const std::byte> bytes_;
  std::unique_ptr<std::byte, Unmap> owned_{nullptr, Unmap{0}};
};

}  // namespace autoglm::kernels
