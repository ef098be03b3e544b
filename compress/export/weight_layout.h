#pragma once
/// WeightLayout: how the folders of another quantizer store a linear, and the artifact written in that way.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compress/export/fp16.h"
#include "core/base/cancel.h"
#include "core/base/parallel.h"
#include "core/base/status.h"
#include "core/format/checkpoint.h"
#include "core/format/checkpoint_writer.h"
#include "core/format/quantized_weight.h"
#include "core/format/stored_model.h"

namespace autoglm::exports {

/// One layout; gptq.h and awq.h have them.
class WeightLayout {
 public:
  virtual ~WeightLayout() = default;
  virtual std::string_view name() const = 0;  ///< the word of --format

  /// What of a weight [out, in] quantized so has no place here; "" when it has.
  virtual std::string refusal(const format::QuantArgs& args, const format::Shape& shape) const = 0;

  /// What stores a matrix, by the last part of its name: "qweight".
  virtual std::vector<std::string_view> members() const = 0;

  /// Those tensors for the module `module`, in that order. Scales become FP16.
  virtual std::vector<format::StoredTensor> encode(const format::QuantizedWeight& weight,
                                                   std::string_view module) const = 0;

  /// Rows from `first` on of a weight of `shape` [out, in] as floats, as many as `out` has room for, by what the
  /// layout's readers compute from those tensors.
  virtual void decode(const std::vector<format::StoredTensor>& tensors, const format::QuantArgs& args,
                      const format::Shape& shape, int64_t first, std::span<float> out) const = 0;

  /// quantization_config of config.json; `plain` are the linears that stay float.
  virtual nlohmann::ordered_json config(const format::QuantArgs& args, const std::vector<std::string>& plain) const = 0;
};

struct LayoutReport {
  int64_t matrices = 0;  ///< quantized ones
  int64_t checked = 0;   ///< tensors read back from the files
  double rounding = 0;   ///< largest |written - artifact| / largest |artifact| of a matrix: FP16 scales
};

/// Streams `model` (not chatglm) into `writer`, finishes it and reads it back; the caller commits. A fused gate_up_proj
/// is written as gate_proj and up_proj, as GPTQModel wants it and vLLM takes it. Memory: one matrix as integers and
/// packed, 2 to 3 bytes a value. All quantized matrices must be linears of blocks and have one scheme, for weights
/// alone. kInvalidArgument names what the layout has no place for. kBadInput: a tensor that cannot be decoded.
/// kResourceExhausted, kCancelled.
Result<LayoutReport> write_layout(const format::StoredModel& model, const WeightLayout& layout,
                                  format::CheckpointWriter& writer, CancelToken& cancel);

/// What a layout says to groups of another size than those that its readers have kernels for; "" where they have one.
std::string refused_groups(const format::QuantArgs& args, const format::Shape& shape, std::span<const int> known);

/// FP16 scales [groups, out] of a weight, of one group where the whole row has one.
format::StoredTensor scales_by_group(const format::QuantizedWeight& weight, std::string_view module);

/// Its zero points [groups, out]; 0 where it is symmetric.
std::vector<int8_t> zeros_by_group(const format::QuantizedWeight& weight);

/// (q - zero) * scale for rows from `first` on of a weight of `shape` [out, in], with FP16 scales [groups, out]:
/// `q(row, col)` and `zero(row, group)` give the integers. They are called on several threads.
template <typename Q, typename Zero>
void dequantize_rows(const format::StoredTensor& scales, const format::Shape& shape, int64_t first,
                     std::span<float> out, const Q& q, const Zero& zero) {
  const auto rows = static_cast<size_t>(shape[0]), cols = static_cast<size_t>(shape[1]);
  const auto groups = static_cast<size_t>(scales.shape[0]), width = cols / groups;
  parallel_for(static_cast<int64_t>(out.size() / cols), [&](int64_t begin, int64_t end) {
    for (auto r = static_cast<size_t>(begin); r < static_cast<size_t>(end); ++r) {
      const size_t row = static_cast<size_t>(first) + r;
      for (size_t group = 0; group < groups; ++group) {
        const int offset = zero(row, group);
        const float scale = get_fp16(scales.bytes.data() + (group * rows + row) * 2);
        for (size_t col = group * width; col < (group + 1) * width; ++col) {
          out[r * cols + col] = static_cast<float>(q(row, col) - offset) * scale;
        }
      }
    }
  });
}

}  // namespace autoglm::exports
