#pragma once
/// QuantizedWeight: integers and scales of one matrix, and their layout in compressed-tensors files.
///
/// pack-quantized. Values are shifted to unsigned (q + 2^(bits-1)) and written as one bit stream per row, lowest bit
/// first, element i at bits [i*bits, (i+1)*bits): 32 values fill exactly `bits` little-endian int32 words, the last
/// word of a row is padded with zeros. Zero points are packed in the same way along the rows (one stream per column of
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

/// A tensor as it goes into a file; `name` is whole.
struct StoredTensor {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  std::vector<std::byte> bytes;
};

/// Packs signed `bits`-wide values, one row of `count` values into ceil(count*bits/32) words. `words` is overwritten.
void pack_row(std::span<const int8_t> values, int bits, std::span<uint32_t> words);
void unpack_row(std::span<const uint32_t> words, int bits, std::span<int8_t> values);

/// The tensors that store `weight` under module name `module`.
std::vector<StoredTensor> encode(const QuantizedWeight& weight, std::string_view module, std::string_view format);

/// Names, dtypes and shapes that `encode` would give, without data (for plans).
std::vector<TensorInfo> stored_layout(const QuantArgs& args, Shape shape, DType scale_dtype, std::string_view module,
                                      std::string_view format);

/// Reads module `module` of a checkpoint stored by `scheme`. kBadInput names the tensor: missing, wrong dtype or shape,
/// a non-finite scale. `shape` is what the config expects.
Result<QuantizedWeight> decode(const Checkpoint& checkpoint, std::string_view module, const QuantScheme& scheme,
                               std::string_view format, const Shape& shape);

/// out[r, c] = (q - zero_point) * scale in float; `out` holds rows*cols values.
void dequantize(const QuantizedWeight& weight, std::span<float> out);

}  // namespace autoglm::format
