#pragma once
/// FP16 in the bytes of a block, at any alignment.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/format/dtype.h"

namespace autoglm::exports {

inline void put_fp16(std::byte* at, float value) {
  const uint16_t bits = format::float_to_fp16(value);
  std::memcpy(at, &bits, sizeof bits);
}

inline float get_fp16(const std::byte* at) {
  uint16_t bits = 0;
  std::memcpy(&bits, at, sizeof bits);
  return format::fp16_to_float(bits);
}

}  // namespace autoglm::exports
