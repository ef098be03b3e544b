#pragma once
/// WeightRows: a tensor of a model read as rows of floats, however it is stored, and put together from the tensors that
/// another family keeps it in.
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/format/quantized_weight.h"
#include "core/format/stored_model.h"

namespace autoglm::format {

/// The weight or the bias of a module.
enum class Member { kWeight, kBias };
std::string tensor_name(const ModuleSpec& module, Member member);  ///< of a float one

/// Rows [first, first + count) of a quantized weight of `model` as they are stored (decode_rows of quantized_weight.h).
/// `module` has a scheme.
Result<QuantizedWeight> decode_rows(const StoredModel& model, const ModuleSpec& module, int64_t first, int64_t count);

/// kBadInput names a scheme whose activations are quantized neither dynamically for each token nor statically for the
/// tensor: what can be computed for several sequences at once.
Status check_token_or_tensor_activations(const StoredModel& model);

/// How the inputs of a model's modules are quantized, of those that are: for exporters that write arithmetic for other
/// software. kBadInput: neither dynamic for each token nor static for the tensor (named), or something that belongs to
/// a quantized weight is missing or does not fit.
Result<std::map<const ModuleSpec*, InputQuant>> quantized_inputs(const StoredModel& model);

/// Rows [first, first + rows) of one stored tensor.
struct RowSegment {
  const ModuleSpec* module = nullptr;
  int64_t first = 0, rows = 0;
};

/// Not thread-safe. The model must outlive it.
class WeightRows {
 public:
  /// `segments` one above the other; all have the same number of columns. A vector is a matrix of one column.
  WeightRows(const StoredModel& model, Member member, std::vector<RowSegment> segments);

  /// The module of `model` itself.
  static WeightRows of(const StoredModel& model, const ModuleSpec& module, Member member);

  /// The rows of `model` that a module of another model's layout is made of: the module of the same role, or the parts
  /// of a fused one (q, k, v of qkv; gate and up of gate_up) or the parts that it fuses; a head of its own where
  /// `model` has tied embeddings is the embedding. No segments when there is nothing of that role.
  static WeightRows matching(const StoredModel& model, const ModuleSpec& module, Member member);

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  const std::vector<RowSegment>& segments() const { return segments_; }

  /// out[count, cols]. kBadInput names the tensor when it cannot be decoded.
  Status read(int64_t first, int64_t count, std::span<float> out) const;

  /// Gives the mapped pages of all segments back.
  void release() const;

  /// Names in the checkpoint of everything that stores these rows.
  std::vector<std::string> stored_names() const;

 private:
  Status read_segment(const RowSegment& segment, int64_t first, int64_t count, std::span<float> out) const;

  const StoredModel* model_;
  Member member_;
  std::vector<RowSegment> segments_;
  int64_t rows_ = 0, cols_ = 1;
};

}  // namespace autoglm::format
