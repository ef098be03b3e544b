#include "compress/export/awq.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

namespace autoglm::exports {
namespace {

using format::DType;
using format::QuantArgs;
using format::QuantizedWeight;
using format::Shape;
using format::StoredTensor;

constexpr std::array<size_t, 8> kOrder = {0, 2, 4, 6, 1, 3, 5, 7};  // the outputs of a word's nibbles
constexpr int kHalf = 8;

/// q [out, n] as [n, out / 8] words; `at(out, n)` gives the signed value.
template <typename At>
StoredTensor pack(std::string name, int64_t rows, int64_t n, const At& at) {
  std::vector<uint32_t> words;
  words.reserve(static_cast<size_t>(n * rows / 8));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t first = 0; first < rows; first += 8) {
      uint32_t word = 0;
      for (size_t nibble = 0; nibble < 8; ++nibble) {
        const int value = at(first + static_cast<int64_t>(kOrder[nibble]), i) + kHalf;
        word |= static_cast<uint32_t>(value) << (4 * nibble);
      }
      words.push_back(word);
    }
  }
  const auto bytes = std::as_bytes(std::span(words));
  return {.name = std::move(name), .dtype = DType::kI32, .shape = {n, rows / 8}, .bytes = {bytes.begin(), bytes.end()}};
}

/// The unsigned value of output `row` in line `i` of such a tensor.
int value_at(const StoredTensor& tensor, size_t i, size_t row) {
  const size_t place = static_cast<size_t>(std::find(kOrder.begin(), kOrder.end(), row % 8) - kOrder.begin());
  uint32_t word = 0;
  std::memcpy(&word, tensor.bytes.data() + (i * static_cast<size_t>(tensor.shape[1]) + row / 8) * sizeof word,
              sizeof word);
  return static_cast<int>(word >> (4 * place) & 15);
}

class AwqLayout : public WeightLayout {
 public:
  std::string_view name() const override { return "awq"; }

  std::string refusal(const QuantArgs& args, const Shape& shape) const override {
    if (args.num_bits != 4) return fmt::format("{} bits, where 4 alone are held", args.num_bits);
    if (shape[0] % 8 != 0) return fmt::format("{} outputs, which are no multiple of 8", shape[0]);
    return "";
  }

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
    for (size_t i = 0; i < q.size(); ++i) q[i] = value_at(tensors[0], i % cols, i / cols);
    for (size_t i = 0; i < z.size(); ++i) z[i] = value_at(tensors[1], i / rows, i % rows);
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
