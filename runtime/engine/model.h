#pragma once
/// Model: the weights of a folder, ready to run.
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/model_config.h"
#include "runtime/engine/rotary.h"
#include "runtime/engine/weights.h"
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
  /// Cancelled between pieces of weights. Exceptions (no memory) become Status.
  static Result<std::unique_ptr<Model>> load(std::unique_ptr<const Weights> weights, kernels::ThreadPool& pool,
                                             const CancelToken* cancel = nullptr);

  const format::ModelConfig& config() const { return weights_->config(); }
  const Weights& weights() const { return *weights_; }
  const std::vector<Block>& blocks() const { return blocks_; }
  const std::vector<float>& final_norm() const { return final_norm_; }
  const std::vector<Linear>& head() const { return head_; }  ///< one
  const Rotary& rotary() const { return rotary_; }

  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

 private:
  explicit Model(std::unique_ptr<const Weights> weights) : weights_(std::move(weights)), rotary_(config()) {}
  Status load_block(int64_t layer, kernels::ThreadPool& pool, const CancelToken* cancel);
  Status load_all(kernels::ThreadPool& pool, const CancelToken* cancel);

  std::unique_ptr<const Weights> weights_;
  Rotary rotary_;
  std::vector<Block> blocks_;
  std::vector<float> final_norm_;
  std::vector<Linear> head_;
};

}  // namespace autoglm::engine
