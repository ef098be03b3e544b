#pragma once
/// Element types of the safetensors format and conversion of their values to and from float.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace autoglm::format {

using Shape = std::vector<int64_t>;

enum class DType {
  kBool,
  kU8,
  kI8,
  kF8E4M3,
  kF8E5M2,
  kF8E8M0,
  kU16,
  kI16,
  kF16,
  kBF16,
  kU32,
  kI32,
  kF32,
  kU64,
  kI64,
  kF64,
  kC64
};

std::string_view to_string(DType dtype);  ///< the format's own spelling: "BF16", "F8_E4M3", ...
/// Nothing for types that are unknown or whose elements are no whole bytes (F4, F6).
std::optional<DType> dtype_from_string(std::string_view name);
int64_t size_of(DType dtype);  ///< bytes of one element
bool is_float(DType dtype);    ///< F64 to F8; complex is not

/// Number of elements, 1 for a scalar's empty shape; nothing when a dimension is negative or the product of the
/// dimensions that are not zero does not fit in int64_t (so that no order of multiplying them can overflow).
std::optional<int64_t> element_count(const Shape& shape);

/// Decodes the first out.size() elements of `bytes`, at any alignment, into `out`. Integers become plain numbers, C64
/// becomes NaN.
void to_float(DType dtype, std::span<const std::byte> bytes, std::span<float> out);

/// Rounds to nearest even into F64, F32, F16 or BF16 (no other dtype may be asked for); values beyond the range become
/// infinite, NaN stays NaN. `out`, at any alignment, holds in.size() elements.
void from_float(DType dtype, std::span<const float> in, std::span<std::byte> out);

/// The index of the first element of `bytes`, at any alignment, that is NaN or infinite, or -1; -1 for what is no
/// float.
int64_t first_non_finite(DType dtype, std::span<const std::byte> bytes);

/// `value` as F16 or BF16 holds it; other types are left as they are.
float rounded_to(DType dtype, float value);

float bf16_to_float(uint16_t bits);
float fp16_to_float(uint16_t bits);
uint16_t float_to_bf16(float value);
uint16_t float_to_fp16(float value);

}  // namespace autoglm::format
