#pragma once
/// What was lost: distances between the next-token distributions of a source model P and a compressed one Q.
#include <cstdint>
#include <span>
#include <vector>

#include "core/base/cancel.h"
#include "core/eval/scorer.h"

namespace autoglm::eval {

/// Means over every scored position (each next-token prediction inside each sequence).
struct Divergence {
  int64_t positions = 0;
  double kl_mean = 0, kl_p99 = 0, kl_max = 0;   ///< KL(P || Q) in nats
  double top1_agreement = 0;                    ///< share of positions where both put the same token first
  double perplexity_source = 0, perplexity = 0; ///< exp of the mean negative log-likelihood of the text's own tokens
};

/// KL(P || Q) in nats of two logit rows, in double precision.
double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits);

/// Scores the same sequences with both and compares position by position, a chunk of logits at a time.
Result<Divergence> compare(Scorer& source, Scorer& compressed, const std::vector<Tokens>& sequences, CancelToken& cancel);

/// Perplexity alone, for a model without a source beside it.
Result<double> perplexity(Scorer& scorer, const std::vector<Tokens>& sequences, CancelToken& cancel);

}  // namespace autoglm::eval
