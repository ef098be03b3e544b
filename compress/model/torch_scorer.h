#pragma once
/// TorchScorer: eval::Scorer over a Decoder.
#include <cstdint>
#include <memory>

#include "compress/model/decoder.h"
#include "core/eval/scorer.h"

namespace autoglm::model {

struct TorchScorerOptions {
  /// Bytes that weights may take; 0: no limit. Scoring needs one block and a hidden state per token, and keeps the head
  /// where there is room for it; generation and latency need all weights.
  int64_t max_bytes = 0;
  int64_t least_bytes = 64'000'000;  ///< that scoring may take all the same: little beside the activations
  int64_t tokens_at_once = 1024;     ///< run through a block together (at least one sequence): bounds activations
  int64_t prompts_at_once = 32;      ///< generated together
};

/// `score` streams the blocks once over all sequences: one block in memory, and one hidden state per token in the
/// compute dtype. Not thread-safe.
std::unique_ptr<eval::Scorer> make_torch_scorer(const Decoder& decoder, const TorchScorerOptions& options = {});

}  // namespace autoglm::model
