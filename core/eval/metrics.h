#pragma once
/// What was lost: distances between the next-token distributions of a source model P and a compressed one Q.
///
/// A position is one next-token prediction inside a sequence: a sequence of n tokens has n - 1. All sums are in double
/// precision and in one fixed order, so that the same logits give the same numbers.
#include <cstdint>
#include <span>
#include <vector>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/eval/scorer.h"

namespace autoglm::eval {

/// Means over every scored position.
struct Divergence {
  int64_t sequences = 0;
  int64_t positions = 0;
  double kl_mean = 0, kl_p50 = 0, kl_p99 = 0, kl_max = 0;  ///< KL(P || Q) in nats; quantiles are exact, nearest rank
  double top1_agreement = 0;                               ///< share of positions where both put the same token first
  double perplexity_source = 0, perplexity = 0;  ///< exp of the mean negative log-likelihood of the text's own tokens
};

/// What each position lost, in the order of the sequences: 13 bytes a position, for quantiles and paired statistics.
struct PositionLosses {
  std::vector<float> kl;               ///< nats
  std::vector<float> nll_source, nll;  ///< nats of the text's next token
  std::vector<uint8_t> agrees;         ///< 1: both put the same token first
  std::vector<int64_t> sequence_ends;  ///< positions up to and with each sequence
};

/// KL(P || Q) in nats of two rows of finite logits, of the same length > 0. Never negative.
double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits);

/// log(sum(exp(logits))) of finite logits, in double precision.
double log_sum_exp(std::span<const float> logits);

/// Collects the comparison of two models over several calls, so that a caller can stop when its time is up.
class DivergenceMeter {
 public:
  /// Scores `sequences` with both models and compares position by position; no more than a few tens of MB of logits are
  /// held at a time. kBadInput: a token outside the vocabulary, a logit that is not finite (says which model, sequence
  /// and position). kInvalidArgument: the vocabularies differ.
  Status add(Scorer& source, Scorer& compressed, const std::vector<Tokens>& sequences, CancelToken& cancel);

  /// Over everything added so far; zeros when there was no position.
  Divergence result() const;
  const PositionLosses& positions() const { return losses_; }

 private:
  PositionLosses losses_;
  double kl_sum_ = 0, nll_source_sum_ = 0, nll_sum_ = 0;
};

/// One `add` and its result. kInvalidArgument when no sequence has two tokens.
Result<Divergence> compare(Scorer& source, Scorer& compressed, const std::vector<Tokens>& sequences,
                           CancelToken& cancel);

/// Perplexity alone, for a model without a source beside it. Errors as DivergenceMeter::add.
Result<double> perplexity(Scorer& scorer, const std::vector<Tokens>& sequences, CancelToken& cancel);

/// The nearest-rank quantile: the smallest value that at least a share `q` of all values do not exceed. 0 for none.
float quantile(std::vector<float> values, double q);

/// Spearman's rank correlation (-1..1), equal values sharing their mean rank; 0 where one side does not vary. Both of
/// one length.
double rank_correlation(std::span<const double> x, std::span<const double> y);

}  // namespace autoglm::eval
