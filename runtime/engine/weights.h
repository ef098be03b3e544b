#pragma once
/// Weights: what a model is made of, as kernels take it, whatever kind of folder it lies in.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
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

/// Keeps its files mapped: matrices may be used where they lie, so it must outlive what it gave. Immutable;
/// thread-safe.
class Weights {
 public:
  /// A folder that `pack` wrote (PackedModel), or any other checkpoint (WeightReader). kBadInput: not a model folder,
  /// or one that contradicts itself or cannot be run.
  static Result<std::unique_ptr<const Weights>> open(const std::filesystem::path& folder);

  virtual ~Weights() = default;

  virtual const format::ModelConfig& config() const = 0;
  virtual const format::TensorLayout& layout() const = 0;
  const format::ModuleSpec& embedding() const { return *layout().find(format::Role::kEmbedding); }
  const format::ModuleSpec& head() const;  ///< its own, or the embedding it is tied to

  /// Where bytes are: in memory of their own, or pages of the files.
  struct Bytes {
    int64_t packed = 0, mapped = 0;
  };
  /// A matrix as it is stored, and what running it occupies.
  struct Matrix {
    kernels::PackedShape shape;
    Bytes bytes;
  };
  virtual Result<std::vector<Matrix>> matrices() const = 0;
  Result<Bytes> bytes() const;  ///< of all matrices

  /// Says that matrices will be used where they lie, again and again, if any are: before anything is read.
  virtual void keep() const = 0;

  /// Modules that share their input, joined into one matrix where their layouts allow it. kBadInput: they cannot be
  /// read; kCancelled between pieces.
  virtual Result<std::vector<Linear>> linears(const std::vector<const format::ModuleSpec*>& modules,
                                              kernels::ThreadPool& pool, const CancelToken* cancel) const = 0;

  /// The weight of a module that is no matrix (a norm, a router's correction) as floats; kBadInput names an element
  /// that is not finite.
  virtual Result<std::vector<float>> vector(const format::ModuleSpec& module) const = 0;

  /// Row `id` of the embedding; `out` holds hidden_size floats. `id` is in range.
  virtual Status embedding_row(int64_t id, std::span<float> out) const = 0;
};

/// A tensor of `checkpoint` as floats; kBadInput: it is missing, or an element (named) is not finite.
Result<std::vector<float>> finite_floats(const format::Checkpoint& checkpoint, const std::string& name);

/// The matrices of a block, those that share their input together, in order of use.
std::vector<std::vector<const format::ModuleSpec*>> matrices_of_block(const format::TensorLayout& layout,
                                                                      int64_t layer);

}  // namespace autoglm::engine
