#pragma once
/// QuantizedWeight: integers and scales of one matrix, and their layout in compressed-tensors files (docs/FORMATS.md).
///
/// pack-quantized. Rows are packed as bit_packing.h says; zero points likewise along the rows (one stream per column of
/// groups). Stored tensors of module M with weight [out, in]:
///   M.weight_packed      I32 [out, ceil(in*bits/32)]
///   M.weight_scale       F   [out, groups]      (tensor strategy: [1])
///   M.weight_zero_point  I32 [ceil(out*bits/32), groups]   only when asymmetric (tensor strategy: I8 [1])
///   M.weight_shape       I64 [2] = {out, in}
/// int-quantized: M.weight I8 [out, in], M.weight_scale as above, M.weight_zero_point I8 [out, groups] when asymmetric.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/format/bit_packing.h"
#include "core/format/checkpoint.h"
#include "core/format/quant_scheme.h"

namespace autoglm::format {

struct QuantizedWeight {
  QuantArgs args;
  int64_t rows = 0, cols = 0;
  std::vector<int8_t> values;        ///< [rows, cols], each in [q_min, q_max]
  std::vector<float> scales;         ///< [rows, groups]; tensor strategy: [1]
  std::vector<int8_t> zero_points;   ///< like scales; empty when symmetric
  DType scale_dtype = DType::kBF16;  ///< as stored; `scales` hold values that this type represents exactly
};

/// The smallest scale of the stored type: normal, so that no reader flushes it to zero; for fp16, whose normals end at
/// 6e-5, the smallest value at all.
float smallest_scale(DType dtype);
/// The nearest value of the stored type that can be a scale.
float nearest_scale(DType dtype, float scale);

/// A tensor as it goes into a file; `name` is whole.
struct StoredTensor {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  std::vector<std::byte> bytes;
};

/// The tensors that store `weight` under module name `module`, in the order above. `format` is kPackQuantized or
/// kIntQuantized; the vectors of `weight` have the sizes that its rows, cols and args ask for.
std::vector<StoredTensor> encode(const QuantizedWeight& weight, std::string_view module, std::string_view format);

/// Names, dtypes and shapes that `encode` would give for a weight of `shape` [out, in], without data (for plans).
std::vector<TensorInfo> stored_layout(const QuantArgs& args, const Shape& shape, DType scale_dtype,
                                      std::string_view module, std::string_view format);

/// Reads module `module` of a checkpoint stored by `scheme`. kBadInput names file and tensor: missing, wrong dtype or
/// shape, a group size that does not divide, columns in another order (weight_g_idx), a non-finite scale, a value out
/// of range. `shape` [out, in] is what the config expects.
Result<QuantizedWeight> decode(const Checkpoint& checkpoint, std::string_view module, const QuantScheme& scheme,
                               std::string_view format, const Shape& shape);

/// The same for rows [first, first + count) alone, so that a large matrix need not be in memory at once; `rows` of the
/// result is `count`.
Result<QuantizedWeight> decode_rows(const Checkpoint& checkpoint, std::string_view module, const QuantScheme& scheme,
                                    std::string_view format, const Shape& shape, int64_t first, int64_t count);

/// out[r, c] = (q - zero_point) * scale in float; `out` holds rows*cols values. Rounded to the scales' dtype it is what
/// compressed-tensors computes.
void dequantize(const QuantizedWeight& weight, std::span<float> out);

}  // namespace autoglm::format
