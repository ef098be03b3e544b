#pragma once
/// Sampler: chooses the next token from its logits, for every engine alike.
#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "core/base/status.h"

namespace autoglm::tokenizer {

struct SamplerOptions {
  double temperature = 0;  ///< 0: greedy, the likeliest token; above: logits are divided by it
  int64_t top_k = 0;       ///< sample among this many likeliest tokens; 0: all
  double top_p = 1;        ///< then among the fewest that hold this share of probability (arXiv 1904.09751)
  double min_p = 0;        ///< then among those at least this share as likely as the likeliest (arXiv 2407.01082)
  double repetition_penalty = 1;  ///< of tokens that occurred: logits above 0 are divided by it, others multiplied
                                  ///< (arXiv 1909.05858, section 4.1, with the signs of transformers)
  std::vector<std::pair<int32_t, float>> logit_bias;  ///< added to the logits of these ids, before all else
  uint64_t seed = 0;
};

/// What choosing a token needs for a while; samplers that choose one after the other share it.
struct SamplerScratch {
  std::vector<int32_t> order;      ///< ids, a heap by likelihood
  std::vector<double> cumulative;  ///< of probabilities

  /// That it grows to, at most.
  static int64_t bytes(int64_t vocab_size) {
    return vocab_size * static_cast<int64_t>(sizeof(int32_t) + sizeof(double));
  }
};

/// The same logits, options and seed give the same tokens everywhere: the generator is std::mt19937_64, whose output
/// the C++ standard fixes (std::*_distribution is left to libraries), a draw u in [0, 1) is its upper 53 bits times
/// 2^-53, and u picks from the cumulative sum of the probabilities: in the vocabulary's order, or in falling order
/// (equal logits: lower id first) where top_k, top_p or min_p leave some out. Not thread-safe.
class Sampler {
 public:
  /// kInvalidArgument: an option out of range, or a bias for an id outside [0, vocab_size).
  static Result<Sampler> create(const SamplerOptions& options, int64_t vocab_size);

  /// Tells of a token that occurred, in the prompt or generated; only the repetition penalty asks. `id` is in range.
  void observe(int32_t id);

  /// The id of the chosen token; `logits` [vocab_size] are overwritten. kBadInput: a logit is NaN, or none is finite.
  Result<int32_t> sample(std::span<float> logits, SamplerScratch& scratch);

 private:
  Sampler(const SamplerOptions& options, int64_t vocab_size);

  /// Of the tokens that top_k, top_p and min_p leave, by their weights exp((logit - best) / temperature).
  int32_t sample_nucleus(std::span<const float> logits, float best, double u, SamplerScratch& scratch) const;

  SamplerOptions options_;
  std::mt19937_64 generator_;
  std::vector<bool> seen_;         ///< [vocab_size], empty without a penalty
  std::vector<int32_t> seen_ids_;  ///< the same as a list
};

}  // namespace autoglm::tokenizer
