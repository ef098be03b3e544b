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
constexpr std::array kGroups = {16, 32, 64, 128};  // of GPTQModel's kernels
constexpr int64_t kTile = 64;                      // lines of q at a time, whose values then lie together

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

/// The unsigned value of output `row` in line `i` of such a tensor.
int value_at(const StoredTensor& tensor, size_t row, size_t i) {
  static constexpr auto kNibbles = [] {
    std::array<unsigned, 8> nibbles{};
    for (unsigned nibble = 0; nibble < 8; ++nibble) nibbles[kOrder[nibble]] = nibble;
    return nibbles;
  }();
  uint32_t word;
  const auto words = static_cast<size_t>(tensor.shape[1]);
  std::memcpy(&word, tensor.bytes.data() + (i * words + row / 8) * sizeof word, sizeof word);
  return static_cast<int>(word >> (4 * kNibbles[row % 8]) & 15);
}

class AwqLayout : public WeightLayout {
 public:
  std::string_view name() const override { return "awq"; }

  std::string refusal(const QuantArgs& args, const Shape& shape) const override {
    if (args.num_bits != 4) return fmt::format("{} bits, where 4 alone are held", args.num_bits);
    if (std::string what = refused_groups(args, shape, kGroups); !what.empty()) return what;
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

  void decode(const std::vector<StoredTensor>& tensors, const QuantArgs& /*args*/, const Shape& shape, int64_t first,
              std::span<float> out) const override {
    dequantize_rows(
        tensors[2], shape, first, out, [&](size_t row, size_t col) { return value_at(tensors[0], row, col); },
        [&](size_t row, size_t group) { return value_at(tensors[1], row, group); });
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
