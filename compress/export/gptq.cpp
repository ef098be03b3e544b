#include "compress/export/gptq.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include "core/base/parallel.h"
#include "core/format/bit_packing.h"

namespace autoglm::exports {
namespace {

using format::DType;
using format::QuantArgs;
using format::QuantizedWeight;
using format::Shape;
using format::StoredTensor;

constexpr std::array kWidths = {2, 3, 4, 8};
constexpr std::array kGroups = {16, 32, 64, 128, 256, 512, 1024};  // of GPTQModel's kernels

/// Rows of values as streams of words, lying on their side: [words of a row, rows].
std::vector<uint32_t> pack_columns(std::span<const int8_t> values, int64_t rows, int64_t cols, int bits) {
  const auto words = static_cast<size_t>(format::packed_words(cols, bits));
  std::vector<uint32_t> out(words * static_cast<size_t>(rows));
  parallel_for(rows, [&](int64_t begin, int64_t end) {
    std::vector<uint32_t> row(words);
    for (auto r = static_cast<size_t>(begin); r < static_cast<size_t>(end); ++r) {
      format::pack_row(values.subspan(r * static_cast<size_t>(cols), static_cast<size_t>(cols)), bits, row);
      for (size_t w = 0; w < words; ++w) out[w * static_cast<size_t>(rows) + r] = row[w];
    }
  });
  return out;
}

template <typename T>
StoredTensor tensor_of(std::string_view name, const Shape& shape, const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {.name = std::string(name), .dtype = DType::kI32, .shape = shape, .bytes = {bytes.begin(), bytes.end()}};
}

/// Words of 32 bits in a tensor.
class Words {
 public:
  explicit Words(const StoredTensor& tensor) : bytes_(tensor.bytes) {}

  /// Value i of a stream that begins at the word `first` and whose words are `stride` apart.
  int value(size_t first, size_t stride, size_t i, int bits) const {
    const size_t bit = i * static_cast<size_t>(bits), word = bit / 32, shift = bit % 32;
    uint64_t both = at(first + word * stride);
    if (shift + static_cast<size_t>(bits) > 32) both |= static_cast<uint64_t>(at(first + (word + 1) * stride)) << 32;
    return static_cast<int>(both >> shift & ((1U << bits) - 1));
  }

 private:
  uint32_t at(size_t i) const {
    uint32_t word;
    std::memcpy(&word, bytes_.data() + i * sizeof word, sizeof word);
    return word;
  }

  std::span<const std::byte> bytes_;
};

class GptqLayout : public WeightLayout {
 public:
  std::string_view name() const override { return "gptq"; }

  std::string refusal(const QuantArgs& args, const Shape& shape) const override {
    if (std::find(kWidths.begin(), kWidths.end(), args.num_bits) == kWidths.end()) {
      return fmt::format("{} bits, where 2, 3, 4 and 8 are held", args.num_bits);
    }
    if (std::string what = refused_groups(args, shape, kGroups); !what.empty()) return what;
    for (const int64_t size : shape) {
      if (size * args.num_bits % 32 != 0)
        return fmt::format("a side of {}, which fills no whole words of 32 bits", size);
    }
    return "";
  }

  std::vector<std::string_view> members() const override { return {"qweight", "qzeros", "scales", "g_idx"}; }

  std::vector<StoredTensor> encode(const QuantizedWeight& weight, std::string_view module) const override {
    const int bits = weight.args.num_bits;
    StoredTensor scales = scales_by_group(weight, module);
    const int64_t groups = scales.shape[0];
    std::vector<int8_t> zeros = zeros_by_group(weight);
    if (weight.args.symmetric) std::fill(zeros.begin(), zeros.end(), int8_t{-1});  // `gptq` takes 1 off
    std::vector<uint32_t> packed_zeros;
    std::vector<uint32_t> row(static_cast<size_t>(format::packed_words(weight.rows, bits)));
    for (int64_t g = 0; g < groups; ++g) {
      format::pack_row(std::span(zeros).subspan(static_cast<size_t>(g * weight.rows), static_cast<size_t>(weight.rows)),
                       bits, row);
      packed_zeros.insert(packed_zeros.end(), row.begin(), row.end());
    }
    std::vector<int32_t> group_of(static_cast<size_t>(weight.cols));
    for (size_t i = 0; i < group_of.size(); ++i) {
      group_of[i] = static_cast<int32_t>(static_cast<int64_t>(i) * groups / weight.cols);
    }
    std::vector<StoredTensor> out;
    out.push_back(tensor_of(fmt::format("{}.qweight", module), {format::packed_words(weight.cols, bits), weight.rows},
                            pack_columns(weight.values, weight.rows, weight.cols, bits)));
    out.push_back(
        tensor_of(fmt::format("{}.qzeros", module), {groups, format::packed_words(weight.rows, bits)}, packed_zeros));
    out.push_back(std::move(scales));
    out.push_back(tensor_of(fmt::format("{}.g_idx", module), {weight.cols}, group_of));
    return out;
  }

  void decode(const std::vector<StoredTensor>& tensors, const QuantArgs& args, const Shape& shape, int64_t first,
              std::span<float> out) const override {
    const Words values(tensors[0]), zeros(tensors[1]);
    const auto rows = static_cast<size_t>(shape[0]), words = static_cast<size_t>(tensors[1].shape[1]);
    const int taken_off = args.symmetric ? 1 : 0;
    dequantize_rows(
        tensors[2], shape, first, out,
        [&](size_t row, size_t col) { return values.value(row, rows, col, args.num_bits); },
        [&](size_t row, size_t group) { return zeros.value(group * words, 1, row, args.num_bits) + taken_off; });
  }

  nlohmann::ordered_json config(const QuantArgs& args, const std::vector<std::string>& plain) const override {
    nlohmann::ordered_json out = {
        {"quant_method", "gptq"}, {"checkpoint_format", args.symmetric ? "gptq" : "gptq_v2"},
        {"bits", args.num_bits},  {"group_size", args.strategy == format::Strategy::kGroup ? args.group_size : -1},
        {"desc_act", false},      {"sym", args.symmetric},
        {"lm_head", false}};
    for (const std::string& module : plain) {
      std::string pattern = "-:^";  // GPTQModel's word for "leave these as they are"
      for (const char c : module) pattern += c == '.' ? std::string("\\.") : std::string(1, c);
      out["dynamic"][pattern + "$"] = nlohmann::ordered_json::object();
    }
    return out;
  }
};

}  // namespace

std::unique_ptr<WeightLayout> gptq_layout() { return std::make_unique<GptqLayout>(); }

}  // namespace autoglm::exports
