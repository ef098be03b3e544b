#pragma once
/// Packed folders: a model whose matrices lie in the file as the kernels read them, so that loading maps it and reads
/// nothing, and processes share its pages.
///
/// A packed folder is a model folder (config.json, tokenizer) whose quantization_config has the quant_method
/// "autoglm-packed". Its model.safetensors (with thousands of matrices, its shards) holds, by the family's usual module
/// names,
///
///   M.packed       U8, a multiple of 64 bytes and at one in the file: the bytes of a PackedWeight (weight_view.h) of
///                  module M and of those that share its input, one below the other, then zeros
///   M.weight       F32: what is no matrix (norms, router corrections)
///   M.bias         F32: biases, of all rows of M.packed
///   packed.json    U8: {"version", "layout", "matrices": [{name, shape, input, sha256}], "vectors": [{name, sha256}]}
///   packed.sha256  U8: the SHA-256 of packed.json in hexadecimal
///
/// The layout is one for all processors: kernels differ, the bytes do not.
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/engine/weights.h"

namespace autoglm::engine {

/// Whether config.json is that of a packed folder.
bool is_packed(const format::ModelConfig& config);

struct PackOptions {
  bool overwrite = false;
  int threads = 0;  ///< 0: all cores
  const CancelToken* cancel = nullptr;
};

/// Bytes of weight files.
struct Packed {
  int64_t source_bytes = 0, bytes = 0;
};

/// Writes the packed form of the checkpoint in `folder` to the new folder `out`, and reads it back against its
/// checksums before it is put in place. In memory are the matrices that share one input. Errors as of Weights::open and
/// CheckpointWriter; kInvalidArgument: `folder` is packed already, or `out` would take its place.
Result<Packed> pack(const std::filesystem::path& folder, const std::filesystem::path& out,
                    const PackOptions& options = {});

class PackedModel final : public Weights {
 public:
  /// Checks packed.json against its checksum, and every shape, size and place against config.json; matrices are not
  /// read. kBadInput: not whole, of another version or layout, contradictory.
  static Result<PackedModel> open(const std::filesystem::path& folder);

  /// Reads every tensor and compares it with its SHA-256. kBadInput names one that differs.
  Status verify(kernels::ThreadPool& pool, const CancelToken* cancel = nullptr) const;

  const format::ModelConfig& config() const override { return config_; }
  const format::TensorLayout& layout() const override { return layout_; }
  Result<std::vector<Matrix>> matrices() const override;
  void keep() const override { checkpoint_->keep(); }
  Result<std::vector<Linear>> linears(const std::vector<const format::ModuleSpec*>& modules, kernels::ThreadPool& pool,
                                      const CancelToken* cancel) const override;
  Result<std::vector<float>> vector(const format::ModuleSpec& module) const override;
  Status embedding_row(int64_t id, std::span<float> out) const override;

  /// What packed.json says of one matrix.
  struct Entry {
    kernels::PackedShape shape;
    std::optional<format::InputQuant> input;
    std::string sha256;
  };

 private:
  PackedModel() = default;
  Status parse(std::string_view description);
  Status check();
  Status check_matrices(const std::vector<const format::ModuleSpec*>& modules, std::set<std::string>& used) const;
  Status check_vector(const std::string& name, int64_t size, std::set<std::string>& used) const;
  Result<kernels::PackedWeight> weight(const std::string& module, const Entry& entry) const;
  Result<std::vector<float>> floats(const std::string& name) const;
  Status damaged(std::string_view what) const;

  format::ModelConfig config_;
  format::TensorLayout layout_;
  std::shared_ptr<const format::Checkpoint> checkpoint_;
  std::map<std::string, Entry> matrices_;       // by the first module
  std::map<std::string, std::string> vectors_;  // tensor to SHA-256
  std::shared_ptr<const kernels::PackedWeight> embedding_;
};

}  // namespace autoglm::engine
