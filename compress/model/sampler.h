#pragma once
/// Sampler: chooses the next token from its logits.
#include <cstdint>
#include <random>
#include <span>

#include "core/base/status.h"

namespace autoglm::model {

struct SamplerOptions {
  double temperature = 0;  ///< 0: greedy, the likeliest token; above: logits are divided by it
  int64_t top_k = 0;       ///< sample among this many likeliest tokens; 0: all
  double top_p = 1;        ///< then among the fewest that hold this share of probability (nucleus, arXiv 1904.09751)
  uint64_t seed = 0;
};

/// The same logits, options and seed give the same tokens everywhere: the generator is std::mt19937_64, whose output
/// the C++ standard fixes, a draw u in [0, 1) is its upper 53 bits times 2^-53, and u picks from the cumulative sum of
/// the probabilities in falling order (equal logits: lower id first). std::*_distribution, which libraries implement
/// differently, is not used. Not thread-safe.
class Sampler {
 public:
  /// kInvalidArgument: an option out of range.
  static Result<Sampler> create(const SamplerOptions& options);

  /// The id of the chosen token. kBadInput: a logit is NaN, or none is finite.
  Result<int32_t> sample(std::span<const float> logits);

 private:
  explicit Sampler(const SamplerOptions& options) : options_(options), generator_(options.seed) {}
  SamplerOptions options_;
  std::mt19937_64 generator_;
};

}  // namespace autoglm::model
