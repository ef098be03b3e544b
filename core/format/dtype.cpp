#include "core/format/dtype.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>

namespace autoglm::format {
namespace {

struct DTypeRow {
  DType dtype;
  std::string_view name;
  int64_t size;
};

// In the order of the enumeration.
constexpr std::array kTable = {
    DTypeRow{DType::kBool, "BOOL", 1},      DTypeRow{DType::kU8, "U8", 1},
    DTypeRow{DType::kI8, "I8", 1},          DTypeRow{DType::kF8E4M3, "F8_E4M3", 1},
    DTypeRow{DType::kF8E5M2, "F8_E5M2", 1}, DTypeRow{DType::kF8E8M0, "F8_E8M0", 1},
    DTypeRow{DType::kU16, "U16", 2},        DTypeRow{DType::kI16, "I16", 2},
    DTypeRow{DType::kF16, "F16", 2},        DTypeRow{DType::kBF16, "BF16", 2},
    DTypeRow{DType::kU32, "U32", 4},        DTypeRow{DType::kI32, "I32", 4},
    DTypeRow{DType::kF32, "F32", 4},        DTypeRow{DType::kU64, "U64", 8},
    DTypeRow{DType::kI64, "I64", 8},        DTypeRow{DType::kF64, "F64", 8},
    DTypeRow{DType::kC64, "C64", 8},
};

constexpr bool table_follows_enumeration() {
  for (size_t i = 0; i < kTable.size(); ++i) {
    if (static_cast<size_t>(kTable[i].dtype) != i) return false;
  }
  return true;
}
static_assert(table_follows_enumeration());

const DTypeRow& row_of(DType dtype) { return kTable[static_cast<size_t>(dtype)]; }

/// Without a branch: compilers would move the arithmetic of a side into it, and then not vectorise the loop.
constexpr uint32_t select(bool condition, uint32_t yes, uint32_t no) {
  const uint32_t mask = 0u - static_cast<uint32_t>(condition);
  return (yes & mask) | (no & ~mask);
}

// The conversions stand here, and not in the public functions, because those may be replaced when linked into a shared
// library and would not be inlined. Half: F. Giesen, "Float->half variants" (2012).

struct Half {
  static float decode(uint16_t bits) {
    constexpr uint32_t kExponent = 0x7C00u << 13;
    constexpr uint32_t kRebias = (127u - 15u) << 23;
    const uint32_t shifted = (bits & 0x7FFFu) << 13;
    const uint32_t exponent = shifted & kExponent;
    const uint32_t rebiased = shifted + kRebias;
    const uint32_t infinite = rebiased + ((128u - 16u) << 23);
    // A subnormal half is a normal float: set the hidden bit of the smallest exponent, then subtract it as a number.
    const float subnormal = std::bit_cast<float>(rebiased + (1u << 23)) - std::bit_cast<float>(113u << 23);
    const uint32_t magnitude =
        select(exponent == kExponent, infinite, select(exponent == 0, std::bit_cast<uint32_t>(subnormal), rebiased));
    return std::bit_cast<float>(magnitude | (bits & 0x8000u) << 16);
  }

  static uint16_t encode(float value) {
    constexpr uint32_t kInfinity = 255u << 23;
    constexpr uint32_t kOverflow = (127u + 16u) << 23;  // 65536, the first power of two beyond half's range
    constexpr uint32_t kSmallestNormal = 113u << 23;    // 2^-14
    constexpr uint32_t kSubnormalMagic = (127u - 15u + 23u - 10u + 1u) << 23;  // adding it rounds at half's last bit
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t magnitude = bits & 0x7FFFFFFFu;
    const uint32_t special = select(magnitude > kInfinity, 0x7E00u, 0x7C00u);
    const uint32_t subnormal =
        std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + std::bit_cast<float>(kSubnormalMagic)) -
        kSubnormalMagic;
    const uint32_t normal = (magnitude - (112u << 23) + 0xFFFu + (magnitude >> 13 & 1u)) >> 13;
    const uint32_t half =
        select(magnitude >= kOverflow, special, select(magnitude < kSmallestNormal, subnormal, normal));
    return static_cast<uint16_t>(half | sign);
  }
};

struct BFloat {
  static float decode(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

  static uint16_t encode(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
    const uint32_t quiet_nan = bits >> 16 | 0x40u;
    return static_cast<uint16_t>(select((bits & 0x7FFFFFFFu) > 0x7F800000u, quiet_nan, rounded));
  }
};

// OCP 8-bit floats (OFP8 specification 1.0; MX specification 1.0 for E8M0). E4M3 has no infinity: S.1111.111 is NaN.
float f8_e4m3_value(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  const float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                    : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return bits & 0x80 ? -value : value;
}

float f8_e8m0_value(uint8_t bits) {
  return bits == 0xFF ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, bits - 127);
}

using ByteTable = std::array<float, 256>;
ByteTable make_table(float (*value)(uint8_t)) {
  ByteTable table{};
  for (int i = 0; i < 256; ++i) table[static_cast<size_t>(i)] = value(static_cast<uint8_t>(i));
  return table;
}

const ByteTable& f8_table(DType dtype) {
  static const ByteTable e4m3 = make_table(f8_e4m3_value);
  // E5M2 is the upper byte of a half.
  static const ByteTable e5m2 = make_table([](uint8_t bits) { return Half::decode(static_cast<uint16_t>(bits << 8)); });
  static const ByteTable e8m0 = make_table(f8_e8m0_value);
  return dtype == DType::kF8E4M3 ? e4m3 : dtype == DType::kF8E5M2 ? e5m2 : e8m0;
}

// Elements are copied in and out of bytes because mapped tensors need not be aligned; compilers turn this into plain
// (vector) loads and stores.
template <typename T, typename Convert>
void decode_each(std::span<const std::byte> bytes, std::span<float> out, Convert convert) {
  const std::byte* __restrict from = bytes.data();
  float* __restrict to = out.data();
  for (size_t i = 0, n = out.size(); i < n; ++i) {
    T element;
    std::memcpy(&element, from + i * sizeof(T), sizeof(T));
    to[i] = convert(element);
  }
}

template <typename T>
void decode_numbers(std::span<const std::byte> bytes, std::span<float> out) {
  decode_each<T>(bytes, out, [](T value) { return static_cast<float>(value); });
}

template <typename T, typename Convert>
void encode_each(std::span<const float> in, std::span<std::byte> out, Convert convert) {
  const float* __restrict from = in.data();
  std::byte* __restrict to = out.data();
  for (size_t i = 0, n = in.size(); i < n; ++i) {
    const T element = convert(from[i]);
    std::memcpy(to + i * sizeof(T), &element, sizeof(T));
  }
}

// The first element whose bits under `mask` (the exponent's) are all set. Blocks are searched without a branch, which
// compilers turn into vector code.
template <typename T>
int64_t first_with_all_bits(std::span<const std::byte> bytes, T mask) {
  constexpr size_t kBlock = 4096;
  const size_t count = bytes.size() / sizeof(T);
  const auto has_all = [&](size_t i) {
    T element;
    std::memcpy(&element, bytes.data() + i * sizeof(T), sizeof(T));
    return (element & mask) == mask;
  };
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t end = std::min(count, begin + kBlock);
    T found = 0;
    for (size_t i = begin; i < end; ++i) found |= static_cast<T>(has_all(i));
    if (found == 0) continue;
    for (size_t i = begin; i < end; ++i) {
      if (has_all(i)) return static_cast<int64_t>(i);
    }
  }
  return -1;
}

}  // namespace

std::string_view to_string(DType dtype) { return row_of(dtype).name; }

std::optional<DType> dtype_from_string(std::string_view name) {
  const auto row = std::find_if(kTable.begin(), kTable.end(), [&](const DTypeRow& r) { return r.name == name; });
  if (row == kTable.end()) return std::nullopt;
  return row->dtype;
}

int64_t size_of(DType dtype) { return row_of(dtype).size; }

bool is_float(DType dtype) {
  switch (dtype) {
    case DType::kF8E4M3:
    case DType::kF8E5M2:
    case DType::kF8E8M0:
    case DType::kF16:
    case DType::kBF16:
    case DType::kF32:
    case DType::kF64: return true;
    default: return false;
  }
}

std::optional<int64_t> element_count(const Shape& shape) {
  int64_t product = 1;
  bool empty = false;
  for (const int64_t dim : shape) {
    if (dim < 0) return std::nullopt;
    if (dim == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(product, dim, &product)) {
      return std::nullopt;
    }
  }
  return empty ? 0 : product;
}

int64_t first_non_finite(DType dtype, std::span<const std::byte> bytes) {
  switch (dtype) {
    case DType::kF8E4M3: return first_with_all_bits<uint8_t>(bytes, 0x7F);
    case DType::kF8E5M2: return first_with_all_bits<uint8_t>(bytes, 0x7C);
    case DType::kF8E8M0: return first_with_all_bits<uint8_t>(bytes, 0xFF);
    case DType::kF16: return first_with_all_bits<uint16_t>(bytes, 0x7C00);
    case DType::kBF16: return first_with_all_bits<uint16_t>(bytes, 0x7F80);
    case DType::kF32: return first_with_all_bits<uint32_t>(bytes, 0x7F800000);
    case DType::kF64: return first_with_all_bits<uint64_t>(bytes, 0x7FF0000000000000);
    default: return -1;
  }
}

float fp16_to_float(uint16_t bits) { return Half::decode(bits); }
uint16_t float_to_fp16(float value) { return Half::encode(value); }
float bf16_to_float(uint16_t bits) { return BFloat::decode(bits); }
uint16_t float_to_bf16(float value) { return BFloat::encode(value); }

float rounded_to(DType dtype, float value) {
  switch (dtype) {
    case DType::kBF16: return bf16_to_float(float_to_bf16(value));
    case DType::kF16: return fp16_to_float(float_to_fp16(value));
    default: return value;
  }
}

void to_float(DType dtype, std::span<const std::byte> bytes, std::span<float> out) {
  assert(bytes.size() >= out.size() * static_cast<size_t>(size_of(dtype)));
  switch (dtype) {
    case DType::kBool: return decode_each<uint8_t>(bytes, out, [](uint8_t v) { return v != 0 ? 1.0f : 0.0f; });
    case DType::kU8: return decode_numbers<uint8_t>(bytes, out);
    case DType::kI8: return decode_numbers<int8_t>(bytes, out);
    case DType::kF8E4M3:
    case DType::kF8E5M2:
    case DType::kF8E8M0:
      return decode_each<uint8_t>(bytes, out, [&table = f8_table(dtype)](uint8_t v) { return table[v]; });
    case DType::kU16: return decode_numbers<uint16_t>(bytes, out);
    case DType::kI16: return decode_numbers<int16_t>(bytes, out);
    case DType::kF16: return decode_each<uint16_t>(bytes, out, [](uint16_t v) { return Half::decode(v); });
    case DType::kBF16: return decode_each<uint16_t>(bytes, out, [](uint16_t v) { return BFloat::decode(v); });
    case DType::kU32: return decode_numbers<uint32_t>(bytes, out);
    case DType::kI32: return decode_numbers<int32_t>(bytes, out);
    case DType::kF32:
      if (!out.empty()) std::memcpy(out.data(), bytes.data(), out.size_bytes());
      return;
    case DType::kU64: return decode_numbers<uint64_t>(bytes, out);
    case DType::kI64: return decode_numbers<int64_t>(bytes, out);
    case DType::kF64: return decode_numbers<double>(bytes, out);
    case DType::kC64: std::fill(out.begin(), out.end(), std::numeric_limits<float>::quiet_NaN()); return;
  }
}

void from_float(DType dtype, std::span<const float> in, std::span<std::byte> out) {
  assert(out.size() >= in.size() * static_cast<size_t>(size_of(dtype)));
  switch (dtype) {
    case DType::kF64: return encode_each<double>(in, out, [](float v) { return static_cast<double>(v); });
    case DType::kF32:
      if (!in.empty()) std::memcpy(out.data(), in.data(), in.size_bytes());
      return;
    case DType::kF16: return encode_each<uint16_t>(in, out, [](float v) { return Half::encode(v); });
    case DType::kBF16: return encode_each<uint16_t>(in, out, [](float v) { return BFloat::encode(v); });
    default:
      assert(false && "from_float writes F64, F32, F16 and BF16");
      std::fill(out.begin(), out.end(), std::byte{0});
  }
}

}  // namespace autoglm::format
