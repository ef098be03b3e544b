#include "compress/export/awq.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include "core/base/parallel.h"

namespace autoglm::exports {
namespace {

using format::DType;
using format::QuantArgs;
using format::QuantizedWeight;
using format::Shape;
using format::StoredTensor;

constexpr std::array<size_t, 8> kOrder = {0, 2, 4, 6, 1, 3, 5, 7};  // the outputs of a word's nibbles
constexpr int kHalf = 8;
constexpr int64_t kTile = 64;  // lines of q at a time, whose values then lie together

/// q [out, n] as [n, out / 8] words; `at(out, n)` gives the signed value.
template <typename At>
StoredTensor pack(std::string name, int64_t rows, int64_t n, const At& at) {
  std::vector<uint32_t> words(static_cast<size_t>(n * rows / 8));
  const auto word_at = [&](int64_t first, int64_t i) {
    uint32_t word = 0;
    for (size_t nibble = 0; nibble < 8; ++nibble) {
      const int value = at(first + static_cast<int64_t>(kOrder[nibble]), i) + kHalf;
      word |= static_cast<uint32_t>(value) << (4 * nibble);
    }
    return word;
  };
  parallel_for((n + kTile - 1) / kTile, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      for (int64_t first = 0; first < rows; first += 8) {
        for (int64_t i = tile * kTile; i < std::min(n, (tile + 1) * kTile); ++i) {
          words[static_cast<size_t>((i * rows + first) / 8)] = word_at(first, i);
        }
      }
    }
  });
  const auto bytes = std::as_bytes(std::span(words));
  return {.name = std::move(name), .dtype = DType::kI32, .shape = {n, rows / 8}, .bytes = {bytes.begin(), bytes.end()}};
}

/// Calls `put(row, i, value)` with every unsigned value of such a tensor: output `row` in line `i`.
template <typename Put>
void unpack(const StoredTensor& tensor, const Put& put) {
  const auto n = static_cast<size_t>(tensor.shape[0]), words = static_cast<size_t>(tensor.shape[1]);
  parallel_for(tensor.shape[1], [&](int64_t begin, int64_t end) {
    for (auto w = static_cast<size_t>(begin); w < static_cast<size_t>(end); ++w) {
      for (size_t i = 0; i < n; ++i) {
        uint32_t word = 0;
        std::memcpy(&word, tensor.bytes.data() + (i * words + w) * sizeof word, sizeof word);
        for (size_t nibble = 0; nibble < 8; ++nibble) {
          put(8 * w + kOrder[nibble], i, static_cast<int>(word >> (4 * nibble) & 15));
        }
      }
    }
  });
}

class AwqLayout : public WeightLayout {
 public:
  std::string_view name() const override { return "awq"; }

  std::string refusal(const QuantArgs& args, const Shape& shape) const override {
    if (args.num_bits != 4) return fmt::format("{} bits, where 4 alone are held", args.num_bits);
    if (shape[0] % 8 != 0) return fmt::format("{} outputs, which are no multiple of 8", shape[0]);
    return "";
  }

  std::vector<std::string_view> members() const override { return {"qweight", "qzeros", "scales"}; }

  std::vector<StoredTensor> encode(const QuantizedWeight& weight, std::string_view module) const override {
    StoredTensor scales = scales_by_group(weight, module);
    const int64_t groups = scales.shape[0];
    const std::vector<int8_t> zeros = zeros_by_group(weight);
    std::vector<StoredTensor> out;
    out.push_back(pack(fmt::format("{}.qweight", module), weight.rows, weight.cols, [&](int64_t row, int64_t col) {
      return weight.values[static_cast<size_t>(row * weight.cols + col)];
    }));
    out.push_back(pack(fmt::format("{}.qzeros", module), weight.rows, groups, [&](int64_t row, int64_t group) {
      return zeros[static_cast<size_t>(group * weight.rows + row)];
    }));
    out.push_back(std::move(scales));
    return out;
  }

  std::vector<float> decode(const std::vector<StoredTensor>& tensors, const QuantArgs& /*args*/,
                            const Shape& shape) const override {
    const auto rows = static_cast<size_t>(shape[0]), cols = static_cast<size_t>(shape[1]);
    std::vector<int> q(rows * cols), z(static_cast<size_t>(tensors[2].shape[0]) * rows);
    unpack(tensors[0], [&](size_t row, size_t col, int value) { q[row * cols + col] = value; });
    unpack(tensors[1], [&](size_t row, size_t group, int value) { z[group * rows + row] = value; });
    return floats_by_group(q, z, tensors[2], shape);
  }

  nlohmann::ordered_json config(const QuantArgs& args, const std::vector<std::string>& plain) const override {
    std::vector<std::string> kept = plain;
    kept.emplace_back("lm_head");
    return {{"quant_method", "awq"},
            {"version", "gemm"},
            {"bits", 4},
            {"group_size", args.strategy == format::Strategy::kGroup ? args.group_size : -1},
            {"zero_point", true},
            {"modules_to_not_convert", kept}};
  }
};

}  // namespace

std::unique_ptr<WeightLayout> awq_layout() { return std::make_unique<AwqLayout>(); }

}  // namespace autoglm::exports
