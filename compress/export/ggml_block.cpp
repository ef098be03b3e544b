#include "compress/export/ggml_block.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <mutex>
#include <vector>

#include "compress/export/fp16.h"
#include "compress/export/ggml_fit.h"
#include "compress/export/ggml_kquant.h"
#include "core/base/parallel.h"

namespace autoglm::exports {
namespace {

using format::QuantArgs;
using format::QuantizedWeight;
using format::Strategy;

Levels levels_of(GgmlType type) {
  switch (type) {
    case GgmlType::kQ4_0: return {4, false};
    case GgmlType::kQ4_1: return {4, true};
    case GgmlType::kQ5_0: return {5, false};
    case GgmlType::kQ5_1: return {5, true};
    default: return {8, false};
  }
}

/// Of one block; of one value of a float type.
int64_t block_bytes(GgmlType type) {
  switch (type) {
    case GgmlType::kF32: return 4;
    case GgmlType::kF16:
    case GgmlType::kBF16: return 2;
    case GgmlType::kQ4_0: return 18;
    case GgmlType::kQ4_1: return 20;
    case GgmlType::kQ5_0: return 22;
    case GgmlType::kQ5_1: return 24;
    case GgmlType::kQ8_0: return 34;
    case GgmlType::kQ2_K: return 84;
    case GgmlType::kQ3_K: return 110;
    case GgmlType::kQ4_K: return 144;
    case GgmlType::kQ5_K: return 176;
    case GgmlType::kQ6_K: return 210;
  }
  return 0;
}

/// 32 unsigned integers of 4 or 5 bits.
void pack(const Levels& levels, const uint8_t* values, std::byte* out) {
  if (levels.bits == 5) {
    uint32_t high = 0;
    for (uint32_t i = 0; i < kBlock; ++i) high |= static_cast<uint32_t>(values[i] >> 4) << i;
    std::memcpy(out, &high, sizeof high);
    out += sizeof high;
  }
  for (int64_t i = 0; i < kBlock / 2; ++i) {
    out[i] = static_cast<std::byte>((values[i] & 15) | (values[i + kBlock / 2] & 15) << 4);
  }
}

void unpack(const Levels& levels, const std::byte* in, uint8_t* values) {
  uint32_t high = 0;
  if (levels.bits == 5) {
    std::memcpy(&high, in, sizeof high);
    in += sizeof high;
  }
  for (uint32_t i = 0; i < kBlock; ++i) {
    const auto byte = static_cast<uint8_t>(in[i % (kBlock / 2)]);
    const int low = i < kBlock / 2 ? byte & 15 : byte >> 4;
    values[i] = static_cast<uint8_t>(low | static_cast<int>(high >> i & 1) << 4);
  }
}

void encode_q8(const float* values, std::byte* out) {
  float largest = 0;
  for (int64_t i = 0; i < kBlock; ++i) largest = std::max(largest, std::abs(values[i]));
  const float scale = largest / 127, inverse = scale > 0 ? 1 / scale : 0;
  put_fp16(out, scale);
  for (int64_t i = 0; i < kBlock; ++i) out[2 + i] = static_cast<std::byte>(std::lround(values[i] * inverse));
}

/// Blocks of 32 floats, up to kFitsAtOnce, as 4 or 5 bits.
void encode_blocks(const Levels& levels, std::span<const float> values, std::span<const float> weights,
                   std::span<std::byte> out) {
  std::array<Affine, kFitsAtOnce> all;
  const std::span<Affine> fits = std::span(all).first(values.size() / kBlock);
  fit_groups(values, weights, levels, fits);
  for (size_t block = 0; block < fits.size(); ++block) {
    std::byte* to = out.data() + block * (out.size() / fits.size());
    put_fp16(to, fits[block].scale);
    if (levels.has_minimum) put_fp16(to + 2, -fits[block].minimum);
    const float scale = get_fp16(to), minimum = levels.has_minimum ? -get_fp16(to + 2) : 0;
    uint8_t q[kBlock];
    for (size_t i = 0; i < kBlock; ++i) {
      const int level = scale != 0 ? nearest((values[block * kBlock + i] + minimum) / scale) : 0;
      q[i] = static_cast<uint8_t>(std::clamp(level + levels.middle(), 0, levels.top()));
    }
    pack(levels, q, to + (levels.has_minimum ? 4 : 2));
  }
}

format::DType dtype_of(GgmlType type) {
  return type == GgmlType::kF16    ? format::DType::kF16
         : type == GgmlType::kBF16 ? format::DType::kBF16
                                   : format::DType::kF32;
}

}  // namespace

std::string_view to_string(GgmlType type) {
  switch (type) {
    case GgmlType::kF32: return "F32";
    case GgmlType::kF16: return "F16";
    case GgmlType::kBF16: return "BF16";
    case GgmlType::kQ4_0: return "Q4_0";
    case GgmlType::kQ4_1: return "Q4_1";
    case GgmlType::kQ5_0: return "Q5_0";
    case GgmlType::kQ5_1: return "Q5_1";
    case GgmlType::kQ8_0: return "Q8_0";
    case GgmlType::kQ2_K: return "Q2_K";
    case GgmlType::kQ3_K: return "Q3_K";
    case GgmlType::kQ4_K: return "Q4_K";
    case GgmlType::kQ5_K: return "Q5_K";
    case GgmlType::kQ6_K: return "Q6_K";
  }
  return "";
}

bool is_quantized(GgmlType type) { return type != GgmlType::kF32 && type != GgmlType::kF16 && type != GgmlType::kBF16; }

int64_t block_values(GgmlType type) {
  if (!is_quantized(type)) return 1;
  return type >= GgmlType::kQ2_K ? kSuperBlock : kBlock;
}

int64_t row_bytes(GgmlType type, int64_t cols) { return cols / block_values(type) * block_bytes(type); }

GgmlType float_type(format::DType dtype) {
  return dtype == format::DType::kBF16  ? GgmlType::kBF16
         : dtype == format::DType::kF16 ? GgmlType::kF16
                                        : GgmlType::kF32;
}

Result<GgmlType> exact_type(const QuantArgs& args, int64_t cols) {
  if (cols % kBlock != 0) {
    return invalid_argument(fmt::format("rows of {} values do not fit GGUF's blocks of {}", cols, kBlock));
  }
  if (args.strategy == Strategy::kGroup && args.group_size % kBlock != 0) {
    return invalid_argument(
        fmt::format("groups of {} do not fit GGUF's blocks of {}; compress with groups of a multiple of {}",
                    args.group_size, kBlock, kBlock));
  }
  if (args.symmetric) {
    return args.num_bits <= 4 ? GgmlType::kQ4_0 : args.num_bits == 5 ? GgmlType::kQ5_0 : GgmlType::kQ8_0;
  }
  if (args.num_bits <= 5) return args.num_bits <= 4 ? GgmlType::kQ4_1 : GgmlType::kQ5_1;
  return invalid_argument(
      fmt::format("GGUF has no type for {} bits with zero points; compress symmetrically", args.num_bits));
}

void encode(const QuantizedWeight& weight, GgmlType type, std::span<std::byte> out) {
  const Levels levels = levels_of(type);
  const int64_t groups = weight.args.groups(weight.cols);
  const int offset = levels.bits == 8 ? 0 : 1 << (levels.bits - 1);
  std::byte* block = out.data();
  for (int64_t row = 0; row < weight.rows; ++row) {
    for (int64_t col = 0; col < weight.cols; col += kBlock, block += block_bytes(type)) {
      const int64_t group = weight.args.strategy == Strategy::kGroup ? col / weight.args.group_size : 0;
      const auto at = static_cast<size_t>(weight.args.strategy == Strategy::kTensor ? 0 : row * groups + group);
      const float scale = weight.scales[at];
      const int8_t* values = weight.values.data() + row * weight.cols + col;
      put_fp16(block, scale);
      if (levels.bits == 8) {
        std::memcpy(block + 2, values, kBlock);
        continue;
      }
      uint8_t shifted[kBlock];
      for (int64_t i = 0; i < kBlock; ++i) shifted[i] = static_cast<uint8_t>(values[i] + offset);
      if (levels.has_minimum) {
        const int zero_point = weight.zero_points.empty() ? 0 : weight.zero_points[at];
        put_fp16(block + 2, -static_cast<float>(offset + zero_point) * scale);
      }
      pack(levels, shifted, block + (levels.has_minimum ? 4 : 2));
    }
  }
}

void encode(std::span<const float> values, int64_t cols, std::span<const float> weights, GgmlType type,
            std::span<std::byte> out) {
  if (!is_quantized(type)) return format::from_float(dtype_of(type), values, out);
  const int64_t size = block_values(type), in_row = std::max<int64_t>(1, cols / size);
  const auto encode_some = [&](int64_t first, int64_t count) {
    const auto part = [](auto span, int64_t at, int64_t length) {
      return span.subspan(static_cast<size_t>(at), static_cast<size_t>(length));
    };
    const auto from = part(values, first * size, count * size);
    const auto importance = weights.empty() ? weights : part(weights, first % in_row * size, count * size);
    const auto to = part(out, first * block_bytes(type), count * block_bytes(type));
    if (size == kSuperBlock) {
      encode_super_block(type, from, importance, to);
    } else if (type == GgmlType::kQ8_0) {
      encode_q8(from.data(), to.data());
    } else {
      encode_blocks(levels_of(type), from, importance, to);
    }
  };
  const bool is_fitted = size == kBlock && type != GgmlType::kQ8_0;
  const int64_t at_once = is_fitted ? static_cast<int64_t>(kFitsAtOnce) : 1;
  parallel_for(std::ssize(values) / size, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin, some = 0; block < end; block += some) {
      some = std::min({at_once, end - block, in_row - block % in_row});
      encode_some(block, some);
    }
  });
}

void decode(GgmlType type, std::span<const std::byte> bytes, std::span<float> out) {
  if (!is_quantized(type)) return format::to_float(dtype_of(type), bytes, out);
  if (block_values(type) == kSuperBlock) {
    const auto size = static_cast<size_t>(block_bytes(type));
    for (size_t block = 0; block * kSuperBlock < out.size(); ++block) {
      decode_super_block(type, bytes.subspan(block * size, size), out.subspan(block * kSuperBlock, kSuperBlock));
    }
    return;
  }
  const Levels levels = levels_of(type);
  const std::byte* block = bytes.data();
  for (size_t first = 0; first < out.size(); first += kBlock, block += block_bytes(type)) {
    const float scale = get_fp16(block);
    if (levels.bits == 8) {
      for (size_t i = 0; i < kBlock; ++i)
        out[first + i] = static_cast<float>(static_cast<int8_t>(block[2 + i])) * scale;
      continue;
    }
    uint8_t values[kBlock];
    unpack(levels, block + (levels.has_minimum ? 4 : 2), values);
    const float minimum =
        levels.has_minimum ? get_fp16(block + 2) : -static_cast<float>(1 << (levels.bits - 1)) * scale;
    for (size_t i = 0; i < kBlock; ++i) out[first + i] = static_cast<float>(values[i]) * scale + minimum;
  }
}

Difference difference_from(GgmlType type, std::span<const std::byte> bytes, std::span<const float> floats) {
  constexpr int64_t kChunk = 16 * kSuperBlock;  // stays near the processor
  std::mutex merging;
  Difference all;
  const int64_t count = std::ssize(floats);
  parallel_for((count + kChunk - 1) / kChunk, [&](int64_t begin, int64_t end) {
    std::vector<float> decoded(kChunk);
    Difference mine;
    for (int64_t first = begin * kChunk; first < std::min(end * kChunk, count); first += kChunk) {
      const auto some =
          floats.subspan(static_cast<size_t>(first), static_cast<size_t>(std::min(kChunk, count - first)));
      decoded.resize(some.size());
      decode(type,
             bytes.subspan(static_cast<size_t>(row_bytes(type, first)),
                           static_cast<size_t>(row_bytes(type, std::ssize(some)))),
             decoded);
      mine += difference_of(decoded, some);
    }
    const std::lock_guard lock(merging);
    all += mine;
  });
  return all;
}

}  // namespace autoglm::exports
