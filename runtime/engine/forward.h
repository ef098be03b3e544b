#pragma once
/// Forward: the mathematics of the decoder over tokens of several sequences at once.
///
/// What differs between families is which parts of a Block are present; the order of computation is one function.
#include <cstdint>
#include <span>
#include <vector>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "runtime/engine/kv_cache.h"
#include "runtime/engine/model.h"
#include "runtime/kernels/kernels.h"
#include "runtime/kernels/linear.h"
#include "runtime/kernels/thread_pool.h"

namespace autoglm::engine {

/// Tokens of one sequence that follow what its pages already hold.
struct TokenRun {
  std::span<const int32_t> tokens;  ///< at least one, each within the vocabulary
  int64_t first_position = 0;       ///< tokens that the pages hold
  int64_t length = 0;               ///< of the sequence as far as it is known, for rotary types that ask for it
  std::span<const int32_t> pages;   ///< of the cache, for first_position + tokens.size() tokens
};

/// Which hidden states are wanted.
enum class Rows { kLast, kAll };

/// Owns the activations' memory, which grows to the largest batch and stays. Not thread-safe.
class Forward {
 public:
  /// All outlive it.
  Forward(const Model& model, KvCache& cache, const kernels::Kernels& kernels, kernels::ThreadPool& pool,
          kernels::Compute compute);

  /// Bytes of activations for `tokens` tokens in a batch and `rows` rows of logits, about.
  static int64_t workspace_bytes(const format::ModelConfig& config, int64_t tokens, int64_t rows, int threads);

  /// Runs all tokens of `runs` through the blocks, appends keys and values to the cache, and puts the last block's
  /// output into `hidden`: [runs, hidden] of each run's last token, or [tokens, hidden]. Causal within a sequence.
  /// Results for a run depend on the others by rounding alone: how products are added up, and whether inputs are split
  /// (kernels/linear.h), follows the number of tokens. kCancelled between layers.
  Status run(std::span<const TokenRun> runs, Rows rows, std::span<float> hidden, const CancelToken* cancel = nullptr);

  /// Final norm and head: hidden [n, hidden] -> logits [n, vocab].
  void logits(const float* hidden, int64_t n, float* out);

 private:
  /// Linears that share an input, and where their outputs go, one after the other in each row of y.
  struct Job {
    const std::vector<Linear>* linears;
    const float* x;
    int64_t x_stride, m;
    float* y;
    int64_t y_stride;
  };
  void project(std::span<const Job> jobs);
  void project(const std::vector<Linear>& linears, const float* x, int64_t m, float* y);
  void norm(const float* x, const std::vector<float>& weight, int64_t m, float* y);
  void norm_heads(float* x, int64_t heads, const std::vector<float>& weight, int64_t m);
  void rotate(float* x, int64_t heads, int64_t m);
  void add(const float* x, int64_t m, float* y);
  void gate(const float* gate_up, int64_t m, int64_t width, float* y);
  template <typename Body>
  void for_rows(int64_t rows, int64_t width, const Body& body);

  void attend(const Block& block, int64_t layer, std::span<const TokenRun> runs, int64_t m);
  void run_mlp(const Mlp& mlp, const float* x, int64_t m, float* y);
  void run_moe(const Moe& moe, const float* x, int64_t m, float* y);

  const Model& model_;
  const format::ModelConfig& config_;
  KvCache& cache_;
  const kernels::Kernels& kernels_;
  kernels::ThreadPool& pool_;
  kernels::Compute compute_;
  kernels::Linear linear_;
  int64_t qkv_width_;

  std::vector<float> hidden_, normed_, mixed_;  // [tokens, hidden]
  std::vector<float> qkv_, attended_;           // [tokens, q + 2 kv], [tokens, q]
  std::vector<float> gate_up_, inner_;          // [tokens, 2 * width], [tokens, width]
  std::vector<float> gathered_, expert_out_;    // [tokens * experts per token, hidden]
  std::vector<float> cos_, sin_;                // [tokens, pairs]
  std::vector<float> scores_;                   // [tokens, experts]
  std::vector<std::byte*> pages_;               // of all runs
  std::vector<size_t> first_page_;              // of each run, in pages_
};

}  // namespace autoglm::engine
