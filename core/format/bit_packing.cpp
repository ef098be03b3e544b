#include "core/format/bit_packing.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>

namespace autoglm::format {
namespace {

static_assert(std::endian::native == std::endian::little, "words are handled as bytes");

// Eight values of a byte each are moved together in one 64-bit register: they fill exactly bits bytes when packed.

constexpr uint64_t repeat(uint64_t pattern, int lane_bits) {
  uint64_t out = 0;
  for (int shift = 0; shift < 64; shift += lane_bits) out |= pattern << shift;
  return out;
}
constexpr uint64_t low_mask(int bits) { return bits >= 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1; }

/// Joins the lower `width` bits of every two neighbouring lanes into the lower 2*width bits of a lane twice as wide.
template <int lane, int width>
constexpr uint64_t join(uint64_t x) {
  constexpr uint64_t kLow = repeat(low_mask(width), 2 * lane);
  return (x & kLow) | (x >> (lane - width) & (kLow << width));
}
template <int lane, int width>
constexpr uint64_t split(uint64_t x) {
  constexpr uint64_t kLow = repeat(low_mask(width), 2 * lane);
  return (x & kLow) | (x & (kLow << width)) << (lane - width);
}

template <int bits>
constexpr uint64_t kSign = repeat(uint64_t{1} << (bits - 1), 8);

template <int bits>
uint64_t pack_eight(uint64_t values) {
  const uint64_t unsigned_values = (values ^ kSign<bits>)&repeat(low_mask(bits), 8);
  return join<32, 4 * bits>(join<16, 2 * bits>(join<8, bits>(unsigned_values)));
}

template <int bits>
uint64_t unpack_eight(uint64_t stream) {
  const uint64_t unsigned_values =
      split<8, bits>(split<16, 2 * bits>(split<32, 4 * bits>(stream & low_mask(8 * bits))));
  const uint64_t values = unsigned_values ^ kSign<bits>;
  const uint64_t negative = values >> (bits - 1) & repeat(1, 8);
  // Sign extension within each byte.
  return values | negative * (0xFFu << bits & 0xFFu);  // NOLINT(misc-redundant-expression): not for 8 bits alone
}

template <int bits>
void pack(const int8_t* __restrict values, size_t count, std::byte* __restrict out, size_t out_bytes) {
  std::byte* const end = out + out_bytes;
  size_t i = 0;
  for (; i + 8 <= count; i += 8, out += bits) {
    uint64_t eight;
    std::memcpy(&eight, values + i, 8);
    eight = pack_eight<bits>(eight);
    std::memcpy(out, &eight, bits);
  }
  if (i < count) {
    const size_t left = count - i;
    uint64_t eight = 0;
    std::memcpy(&eight, values + i, left);
    eight = pack_eight<bits>(eight) & low_mask(static_cast<int>(left) * bits);
    const size_t bytes = (left * bits + 7) / 8;
    std::memcpy(out, &eight, bytes);
    out += bytes;
  }
  std::fill(out, end, std::byte{0});
}

template <int bits>
void unpack(const std::byte* __restrict in, size_t in_bytes, int8_t* __restrict values, size_t count) {
  size_t i = 0;
  // Whole registers are read while the row has them: gathering bits bytes costs eight times as much.
  for (; i + 8 <= count && in_bytes >= 8; i += 8, in += bits, in_bytes -= bits) {
    uint64_t eight;
    std::memcpy(&eight, in, 8);
    eight = unpack_eight<bits>(eight);
    std::memcpy(values + i, &eight, 8);
  }
  for (; i < count; i += 8, in += bits) {
    const size_t left = std::min<size_t>(8, count - i);
    uint64_t eight = 0;
    std::memcpy(&eight, in, (left * bits + 7) / 8);
    eight = unpack_eight<bits>(eight);
    std::memcpy(values + i, &eight, left);
  }
}

/// Calls `f` with the width as a compile-time constant.
template <typename F>
void with_bits(int bits, F&& f) {
  switch (bits) {
    case 1: return f.template operator()<1>();
    case 2: return f.template operator()<2>();
    case 3: return f.template operator()<3>();
    case 4: return f.template operator()<4>();
    case 5: return f.template operator()<5>();
    case 6: return f.template operator()<6>();
    case 7: return f.template operator()<7>();
    case 8: return f.template operator()<8>();
    default: assert(false && "bits must be 1 to 8");
  }
}

}  // namespace

void pack_row(std::span<const int8_t> values, int bits, std::span<uint32_t> words) {
  assert(static_cast<int64_t>(words.size()) == packed_words(static_cast<int64_t>(values.size()), bits));
  with_bits(bits, [&]<int width>() {
    pack<width>(values.data(), values.size(), reinterpret_cast<std::byte*>(words.data()), words.size_bytes());
  });
}

void unpack_row(std::span<const uint32_t> words, int bits, std::span<int8_t> values) {
  assert(static_cast<int64_t>(words.size()) >= packed_words(static_cast<int64_t>(values.size()), bits));
  with_bits(bits, [&]<int width>() {
    unpack<width>(reinterpret_cast<const std::byte*>(words.data()), words.size_bytes(), values.data(), values.size());
  });
}

}  // namespace autoglm::format
