#pragma once
/// Scorer: anything that gives next-token logits, so that one set of metrics measures every engine: LibTorch block by
/// block, LibTorch in memory, and the runtime.
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/cancel.h"
#include "core/base/status.h"

namespace autoglm::eval {

using Tokens = std::vector<int32_t>;

/// Sequences that have been run through the decoder; logits are computed on demand, so that no [tokens, vocab] matrix
/// of everything is ever held.
class ScoredBatch {
 public:
  virtual ~ScoredBatch() = default;
  /// Logits after position `first + i` of `sequence`, i = 0..count-1, into out[count * vocab_size].
  virtual Status logits(int64_t sequence, int64_t first, int64_t count, std::span<float> out) const = 0;
};

class Scorer {
 public:
  virtual ~Scorer() = default;
  virtual int64_t vocab_size() const = 0;

  /// kResourceExhausted, with what is needed and what is allowed, where memory does not suffice to `score` sequences of
  /// so many tokens together.
  virtual Status can_score(int64_t /*tokens*/) const { return ok_status(); }

  /// Runs all `sequences` once; may hold one hidden state per token. The batch may not outlive the scorer.
  virtual Result<std::unique_ptr<ScoredBatch>> score(const std::vector<Tokens>& sequences, CancelToken& cancel) = 0;

  /// Greedy continuation of each prompt, at most `max_new_tokens`, ending after (and without) a token of `stop`.
  /// kResourceExhausted where this scorer cannot hold the model in memory.
  virtual Result<std::vector<Tokens>> generate(const std::vector<Tokens>& prompts, int64_t max_new_tokens,
                                               const std::vector<int64_t>& stop, CancelToken& cancel) = 0;

  /// Milliseconds of each of `steps` one-token steps after `prompt`; of fewer where the model's context ends before.
  /// kInvalidArgument: no prompt, or no room for a step; kResourceExhausted as of `generate`.
  virtual Result<std::vector<double>> step_milliseconds(const Tokens& prompt, int64_t steps, CancelToken& cancel) = 0;
};

}  // namespace autoglm::eval
