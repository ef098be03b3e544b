#include "compress/export/ggml_kquant.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "compress/export/fp16.h"
#include "compress/export/ggml_fit.h"
#include "core/format/dtype.h"

namespace autoglm::exports {
namespace {

constexpr size_t kValues = kSuperBlock, kMostSubBlocks = 16;

/// What a super-block of a type is made of.
struct Layout : Levels {
  size_t sub;        // values of a sub-block
  int scale_levels;  // largest scale, unsigned or (symmetric) the magnitude of the lowest
  size_t sub_blocks() const { return kValues / sub; }
};

Layout layout_of(GgmlType type) {
  switch (type) {
    case GgmlType::kQ2_K: return {{2, true}, 16, 15};
    case GgmlType::kQ3_K: return {{3, false}, 16, 32};
    case GgmlType::kQ4_K: return {{4, true}, 32, 63};
    case GgmlType::kQ5_K: return {{5, true}, 32, 63};
    default: return {{6, false}, 16, 128};
  }
}

/// A super-block in plain integers.
struct Integers {
  std::array<uint8_t, kValues> q{};
  std::array<int, kMostSubBlocks> scales{};  // s
  std::array<int, kMostSubBlocks> minima{};  // z
  float scale = 0, minimum = 0;              // d, m, as FP16 holds them
};

Integers quantize(const Layout& layout, std::span<const float> values, std::span<const float> weights) {
  Integers out;
  const size_t blocks = layout.sub_blocks();
  std::array<Affine, kMostSubBlocks> fits{};
  float largest = 0, largest_minimum = 0;
  for (size_t b = 0; b < blocks; b += kFitsAtOnce) {
    const size_t some = std::min(kFitsAtOnce, blocks - b), first = b * layout.sub, count = some * layout.sub;
    fit_groups(values.subspan(first, count), weights.empty() ? weights : weights.subspan(first, count), layout,
               std::span(fits).subspan(b, some));
  }
  for (size_t b = 0; b < blocks; ++b) {
    if (std::abs(fits[b].scale) > std::abs(largest)) largest = fits[b].scale;
    largest_minimum = std::max(largest_minimum, fits[b].minimum);
  }
  const auto levels = static_cast<float>(layout.scale_levels);
  // Symmetric scales reach one further below 0 than above: the largest lies there.
  out.scale = format::rounded_to(format::DType::kF16, layout.has_minimum ? largest / levels : -largest / levels);
  out.minimum = format::rounded_to(format::DType::kF16, largest_minimum / levels);
  const int lowest = layout.has_minimum ? 0 : -layout.scale_levels;
  const int highest = layout.has_minimum ? layout.scale_levels : layout.scale_levels - 1;
  for (size_t b = 0; b < blocks; ++b) {
    if (out.scale != 0) out.scales[b] = std::clamp(nearest(fits[b].scale / out.scale), lowest, highest);
    if (out.minimum != 0) out.minima[b] = std::clamp(nearest(fits[b].minimum / out.minimum), 0, layout.scale_levels);
    const float scale = out.scale * static_cast<float>(out.scales[b]);
    const float minimum = out.minimum * static_cast<float>(out.minima[b]);
    for (size_t i = b * layout.sub; i < (b + 1) * layout.sub; ++i) {
      const int q = scale != 0 ? nearest((values[i] + minimum) / scale) : 0;
      out.q[i] = static_cast<uint8_t>(std::clamp(q + layout.middle(), 0, layout.top()));
    }
  }
  return out;
}

// ---- bytes

/// Sets or reads `bits` bits of every value, in the order of ggml: value i of run r (of `run` values) lies in byte
/// (r / per_byte) * run + i at bit (r % per_byte) * bits, where `per_byte` values share a byte.
template <typename Visit>
void for_each_value(size_t run, size_t bits, size_t per_byte, const Visit& visit) {
  for (size_t value = 0; value < kValues; ++value) {
    const size_t r = value / run, i = value % run;
    visit(value, r / per_byte * run + i, r % per_byte * bits);
  }
}

void put_bits(std::byte* out, const std::array<uint8_t, kValues>& q, int shift, size_t run, size_t bits,
              size_t per_byte) {
  for_each_value(run, bits, per_byte, [&](size_t value, size_t byte, size_t at) {
    const unsigned part = static_cast<unsigned>(q[value]) >> shift & ((1U << bits) - 1);
    out[byte] |= static_cast<std::byte>(part << at);
  });
}

void get_bits(const std::byte* in, std::array<uint8_t, kValues>& q, int shift, size_t run, size_t bits,
              size_t per_byte) {
  for_each_value(run, bits, per_byte, [&](size_t value, size_t byte, size_t at) {
    const unsigned part = static_cast<unsigned>(in[byte]) >> at & ((1U << bits) - 1);
    q[value] = static_cast<uint8_t>(q[value] | part << shift);
  });
}

/// The 12 bytes of eight 6-bit scales and eight minima of Q4_K and Q5_K.
void put_scales(std::byte* out, const Integers& in) {
  for (size_t b = 0; b < 4; ++b) {
    const unsigned scale = static_cast<unsigned>(in.scales[b + 4]), minimum = static_cast<unsigned>(in.minima[b + 4]);
    out[b] = static_cast<std::byte>(static_cast<unsigned>(in.scales[b]) | (scale >> 4) << 6);
    out[4 + b] = static_cast<std::byte>(static_cast<unsigned>(in.minima[b]) | (minimum >> 4) << 6);
    out[8 + b] = static_cast<std::byte>((scale & 15) | (minimum & 15) << 4);
  }
}

void get_scales(const std::byte* in, Integers& out) {
  for (size_t b = 0; b < 4; ++b) {
    const auto first = static_cast<int>(in[b]), second = static_cast<int>(in[4 + b]), low = static_cast<int>(in[8 + b]);
    out.scales[b] = first & 63;
    out.minima[b] = second & 63;
    out.scales[b + 4] = (low & 15) | first >> 6 << 4;
    out.minima[b + 4] = low >> 4 | second >> 6 << 4;
  }
}

/// The 12 bytes of sixteen 6-bit scales of Q3_K, which are stored plus 32.
void put_signed_scales(std::byte* out, const Integers& in) {
  for (size_t b = 0; b < 16; ++b) {
    const auto scale = static_cast<unsigned>(in.scales[b] + 32);
    out[b % 8] |= static_cast<std::byte>((scale & 15) << (b < 8 ? 0 : 4));
    out[8 + b % 4] |= static_cast<std::byte>((scale >> 4) << (b / 4 * 2));
  }
}

void get_signed_scales(const std::byte* in, Integers& out) {
  for (size_t b = 0; b < 16; ++b) {
    const unsigned low = static_cast<unsigned>(in[b % 8]) >> (b < 8 ? 0 : 4) & 15;
    const unsigned high = static_cast<unsigned>(in[8 + b % 4]) >> (b / 4 * 2) & 3;
    out.scales[b] = static_cast<int>(low | high << 4) - 32;
  }
}

void pack(GgmlType type, const Integers& in, std::byte* out) {
  switch (type) {
    case GgmlType::kQ2_K:
      for (size_t b = 0; b < 16; ++b) out[b] = static_cast<std::byte>(in.scales[b] | in.minima[b] << 4);
      put_bits(out + 16, in.q, 0, 32, 2, 4);
      put_fp16(out + 80, in.scale);
      put_fp16(out + 82, in.minimum);
      break;
    case GgmlType::kQ3_K:
      put_bits(out, in.q, 2, 32, 1, 8);
      put_bits(out + 32, in.q, 0, 32, 2, 4);
      put_signed_scales(out + 96, in);
      put_fp16(out + 108, in.scale);
      break;
    case GgmlType::kQ4_K:
    case GgmlType::kQ5_K:
      put_fp16(out, in.scale);
      put_fp16(out + 2, in.minimum);
      put_scales(out + 4, in);
      if (type == GgmlType::kQ5_K) put_bits(out + 16, in.q, 4, 32, 1, 8);
      put_bits(out + (type == GgmlType::kQ5_K ? 48 : 16), in.q, 0, 32, 4, 2);
      break;
    default:
      put_bits(out, in.q, 0, 64, 4, 2);
      put_bits(out + 128, in.q, 4, 32, 2, 4);
      for (size_t b = 0; b < 16; ++b) out[192 + b] = static_cast<std::byte>(in.scales[b]);
      put_fp16(out + 208, in.scale);
  }
}

Integers unpack(GgmlType type, const std::byte* in) {
  Integers out;
  switch (type) {
    case GgmlType::kQ2_K:
      for (size_t b = 0; b < 16; ++b) {
        out.scales[b] = static_cast<int>(in[b]) & 15;
        out.minima[b] = static_cast<int>(in[b]) >> 4;
      }
      get_bits(in + 16, out.q, 0, 32, 2, 4);
      out.scale = get_fp16(in + 80);
      out.minimum = get_fp16(in + 82);
      break;
    case GgmlType::kQ3_K:
      get_bits(in, out.q, 2, 32, 1, 8);
      get_bits(in + 32, out.q, 0, 32, 2, 4);
      get_signed_scales(in + 96, out);
      out.scale = get_fp16(in + 108);
      break;
    case GgmlType::kQ4_K:
    case GgmlType::kQ5_K:
      out.scale = get_fp16(in);
      out.minimum = get_fp16(in + 2);
      get_scales(in + 4, out);
      if (type == GgmlType::kQ5_K) get_bits(in + 16, out.q, 4, 32, 1, 8);
      get_bits(in + (type == GgmlType::kQ5_K ? 48 : 16), out.q, 0, 32, 4, 2);
      break;
    default:
      get_bits(in, out.q, 0, 64, 4, 2);
      get_bits(in + 128, out.q, 4, 32, 2, 4);
      for (size_t b = 0; b < 16; ++b) {
        out.scales[b] = static_cast<int8_t>(in[192 + b]);  // NOLINT(bugprone-signed-char-misuse): it is signed
      }
      out.scale = get_fp16(in + 208);
  }
  return out;
}

}  // namespace

void encode_super_block(GgmlType type, std::span<const float> values, std::span<const float> weights,
                        std::span<std::byte> out) {
  std::fill(out.begin(), out.end(), std::byte{0});
  pack(type, quantize(layout_of(type), values, weights), out.data());
}

void decode_super_block(GgmlType type, std::span<const std::byte> bytes, std::span<float> out) {
  const Layout layout = layout_of(type);
  const Integers in = unpack(type, bytes.data());
  for (size_t i = 0; i < kValues; ++i) {
    const size_t b = i / layout.sub;
    out[i] =
        in.scale * static_cast<float>(in.scales[b]) * static_cast<float>(static_cast<int>(in.q[i]) - layout.middle()) -
        in.minimum * static_cast<float>(in.minima[b]);
  }
}

}  // namespace autoglm::exports
