#pragma once
/// WeightReader: the weights of a checkpoint folder, float or quantized by compressed-tensors, as kernels take them.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "runtime/engine/weights.h"

namespace autoglm::engine {

/// Float weights are used where they lie; quantized ones are packed when they are loaded.
class WeightReader final : public Weights {
 public:
  static constexpr int64_t kPieceElements = 1 << 20;  ///< of a weight decoded at a time, by each thread

  /// kBadInput: not a model folder, tensors that contradict config.json, a quantization that cannot be read or run.
  static Result<WeightReader> open(const std::filesystem::path& folder);

  const format::StoredModel& stored() const { return *stored_; }
  const format::ModelConfig& config() const override { return stored_->config; }
  const format::TensorLayout& layout() const override { return stored_->layout; }

  Result<std::vector<Matrix>> matrices() const override;
  void keep() const override;

  /// Decoded in pieces by all threads of `pool`; pages of the file that were only read are given back.
  Result<std::vector<Linear>> linears(const std::vector<const format::ModuleSpec*>& modules, kernels::ThreadPool& pool,
                                      const CancelToken* cancel) const override;
  Result<std::vector<float>> vector(const format::ModuleSpec& module) const override;
  Status embedding_row(int64_t id, std::span<float> out) const override;

 private:
  WeightReader() = default;
  Result<kernels::PackedShape> packed_shape(const format::ModuleSpec& module) const;  ///< loaded on its own
  bool is_looked_up(const format::ModuleSpec& module) const;                          ///< an embedding, read row by row
  bool is_used_in_place(const format::ModuleSpec& module) const;                      ///< not decoded and laid out anew
  Result<Linear> load(const std::vector<const format::ModuleSpec*>& modules, const kernels::PackedShape& shape,
                      kernels::ThreadPool& pool, const CancelToken* cancel) const;

  std::shared_ptr<const format::StoredModel> stored_;
};

}  // namespace autoglm::engine
