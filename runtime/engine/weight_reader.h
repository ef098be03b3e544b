#pragma once
/// WeightReader: the weights of a checkpoint folder, float or quantized by compressed-tensors, as kernels take them.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/stored_model.h"
#include "runtime/kernels/packed_weight.h"
#include "runtime/kernels/thread_pool.h"

namespace autoglm::engine {

/// y = x W^T + b, of one module or of several that share their input, one below the other.
struct Linear {
  kernels::PackedWeight weight;
  std::vector<float> bias;  ///< [rows]; empty: none
  std::optional<format::InputQuant> input;
};

/// Keeps the files mapped: float weights are used where they lie, so it must outlive what it loaded. Immutable;
/// thread-safe.
class WeightReader {
 public:
  static constexpr int64_t kPieceElements = 1 << 20;  ///< of a weight decoded at a time, by each thread

  /// kBadInput: not a model folder, tensors that contradict config.json, a quantization that cannot be read or run.
  static Result<WeightReader> open(const std::filesystem::path& folder);

  const format::StoredModel& stored() const { return *stored_; }
  const format::ModelConfig& config() const { return stored_->config; }
  const format::TensorLayout& layout() const { return stored_->layout; }

  /// How a matrix is packed when it is loaded on its own.
  Result<kernels::PackedShape> packed_shape(const format::ModuleSpec& module) const;

  /// Bytes that `linears` will give to a module: packed in memory, or mapped.
  struct Bytes {
    int64_t packed = 0, mapped = 0;
  };
  Result<Bytes> predict(const format::ModuleSpec& module) const;

  /// Modules that share their input, joined into one matrix where their layouts allow it. Decoded in pieces by all
  /// threads of `pool`; pages of the file that were only read are given back.
  Result<std::vector<Linear>> linears(const std::vector<const format::ModuleSpec*>& modules, kernels::ThreadPool& pool,
                                      const CancelToken* cancel) const;

  /// A norm, a bias or the like as floats; kBadInput names an element that is not finite.
  Result<std::vector<float>> vector(const std::string& name) const;

  /// Row `id` of the embedding; `out` holds hidden_size floats. `id` is in range.
  Status embedding_row(int64_t id, std::span<float> out) const;

 private:
  WeightReader() = default;
  Result<Linear> load(const std::vector<const format::ModuleSpec*>& modules, const kernels::PackedShape& shape,
                      kernels::ThreadPool& pool, const CancelToken* cancel) const;

  std::shared_ptr<const format::StoredModel> stored_;
};

}  // namespace autoglm::engine
