#pragma once
/// Model: the weights of a checkpoint folder, ready to run. Float weights stay in the mapped files, quantized ones are
/// packed for the processor.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/model_config.h"
#include "runtime/engine/rotary.h"
#include "runtime/engine/weight_reader.h"
#include "runtime/kernels/thread_pool.h"

namespace autoglm::engine {

struct Mlp {
  std::vector<Linear> gate_up;  ///< the outputs, one after the other, are [gate; up]
  std::vector<Linear> down;     ///< one
};

struct Moe {
  std::vector<Linear> router;     ///< one, [experts, hidden], never quantized
  std::vector<float> correction;  ///< [experts], added to the scores when choosing
  std::vector<Mlp> experts;
  std::optional<Mlp> shared;
};

struct Block {
  std::vector<float> input_norm, mlp_norm;                ///< [hidden]
  std::vector<float> post_attention_norm, post_mlp_norm;  ///< the sandwich norms; empty where absent
  std::vector<float> q_norm, k_norm;                      ///< [head_dim]; empty where absent
  std::vector<Linear> qkv;                                ///< the outputs, one after the other, are [q; k; v]
  std::vector<Linear> o;                                  ///< one
  std::optional<Mlp> mlp;                                 ///< exactly one of mlp and moe
  std::optional<Moe> moe;
};

/// Immutable after loading; thread-safe.
class Model {
 public:
  /// Bytes of weights: `packed` are in memory of their own, `mapped` are pages of the files.
  static Result<WeightReader::Bytes> predict(const WeightReader& reader);

  /// kResourceExhausted before anything is loaded when the weights exceed `max_bytes` (0: no limit). Cancelled between
  /// pieces of weights. Exceptions (no memory) become Status.
  static Result<std::unique_ptr<Model>> load(const std::filesystem::path& folder, kernels::ThreadPool& pool,
                                             int64_t max_bytes = 0, const CancelToken* cancel = nullptr);

  const format::ModelConfig& config() const { return reader_.config(); }
  const WeightReader& reader() const { return reader_; }
  const std::vector<Block>& blocks() const { return blocks_; }
  const std::vector<float>& final_norm() const { return final_norm_; }
  const std::vector<Linear>& head() const { return head_; }  ///< one
  const Rotary& rotary() const { return rotary_; }
  const WeightReader::Bytes& bytes() const { return bytes_; }

  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

 private:
  explicit Model(WeightReader reader) : reader_(std::move(reader)), rotary_(reader_.config()) {}
  Status load_block(int64_t layer, kernels::ThreadPool& pool, const CancelToken* cancel);
  Status load_all(kernels::ThreadPool& pool, const CancelToken* cancel);

  WeightReader reader_;
  Rotary rotary_;
  std::vector<Block> blocks_;
  std::vector<float> final_norm_;
  std::vector<Linear> head_;
  WeightReader::Bytes bytes_;
};

}  // namespace autoglm::engine
