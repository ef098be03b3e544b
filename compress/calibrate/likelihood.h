#pragma once
/// LikelihoodGradient: the gradient of the log-likelihood of tokens that a model draws itself, at every state between
/// its blocks. Its second moment is the Fisher information (J. Martens, New insights and perspectives on the natural
/// gradient method, JMLR 21, 2020, section 5), on which fisher.h and search/sensitivity.h rest. The model runs forward
/// and then back, with one block, or some rows of the head, in memory at a time.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "compress/calibrate/hidden_states.h"
#include "compress/model/block.h"
#include "compress/model/decoder.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/eval/random.h"
#include "core/eval/scorer.h"

namespace autoglm::calibrate {

struct LikelihoodOptions {
  uint64_t seed = 0;                 ///< of the tokens that are drawn
  int64_t memory_limit = INT64_MAX;  ///< bytes of states that are held in memory; the rest goes to disk
  std::filesystem::path scratch;     ///< where to; a folder
};

/// Call forward for each layer in order, head once, then back for layers from the last. Not thread-safe.
class LikelihoodGradient {
 public:
  /// A state of one sequence and the gradient there, both [1, length, hidden] float32.
  using Visit = std::function<Status(size_t sequence, const at::Tensor& state, const at::Tensor& gradient)>;
  /// Rows of the head [rows, hidden], the gradient of what they give for some tokens [tokens, rows], and these tokens'
  /// input [tokens, hidden]. `first` is the first of the sequences that the tokens belong to.
  using VisitHead = std::function<Status(const at::Tensor& rows, const at::Tensor& gradient, const at::Tensor& x,
                                         size_t first_sequence)>;

  /// `source` computes in fp32 and, with `cancel`, outlives this; none of `sequences` is empty.
  static Result<LikelihoodGradient> create(const model::Decoder& source, std::vector<eval::Tokens> sequences,
                                           const LikelihoodOptions& options, CancelToken& cancel);

  /// Runs block `layer` on every sequence.
  Status forward(int64_t layer);

  /// Draws the token after each by what the model says; the last states' gradients. `rows` may be empty.
  Status head(const VisitHead& rows, const Visit& visit);

  /// From the gradients of what leaves block `layer`, which is `block`, to those of what enters it. Parameters of
  /// `block` that ask for gradients have those of one sequence more at each visit.
  Status back(int64_t layer, const model::Block& block, const Visit& visit);

  /// Of what enters the block that back was called for last, or of what leaves the last.
  Result<at::Tensor> gradient(size_t sequence) const;

  /// Bytes of working memory beyond the program but for what visits take, and floating-point operations, for plans:
  /// of `tokens` tokens in sequences of `length`.
  static int64_t bytes(const model::Decoder& source, int64_t tokens, int64_t length, const LikelihoodOptions& options);
  static double flops(const model::Decoder& source, int64_t tokens);

 private:
  LikelihoodGradient(const model::Decoder& source, std::vector<eval::Tokens> sequences, uint64_t seed,
                     CancelToken& cancel);
  int64_t at(int64_t layer, size_t sequence) const;
  Result<at::Tensor> run(const model::Block& block, const at::Tensor& input) const;
  Status head_of(size_t first, size_t last, const at::Tensor& norm, const VisitHead& rows, const Visit& visit);
  Result<at::Tensor> draw(const at::Tensor& x, const at::Tensor& total);
  Status for_head_rows(const std::function<Status(int64_t first, const at::Tensor& rows)>& body) const;

  const model::Decoder* source_;
  CancelToken* cancel_;
  std::vector<eval::Tokens> sequences_;
  eval::SplitMix64 random_;
  model::Rotary rotary_;
  HiddenStates states_;  ///< what enters each block and leaves the last; on the way back, in its place, its gradient
  int64_t layer_ = 0;    ///< whose gradients there are
};

}  // namespace autoglm::calibrate
