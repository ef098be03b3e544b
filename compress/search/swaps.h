#pragma once
/// Swaps: moves bits between groups by what the whole model is measured to lose, from an allocation that rests on
/// estimates.
///
/// An estimate ranks formats of one group well and groups less so: errors of neighbouring layers meet, and what is lost
/// is not quadratic where few bits are left. So, with every group rounded to its format, one group after the other is
/// given a smaller and a larger format, and the divergence of the whole model is measured each time. The knapsack is
/// solved again among these three with the measured differences, and the solution is taken if it, measured too, loses
/// less.
#include <cstdint>
#include <filesystem>
#include <vector>

#include "compress/model/decoder.h"
#include "compress/pass/recipe.h"
#include "compress/pass/registry.h"
#include "compress/search/allocation.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/eval/scorer.h"

namespace autoglm::search {

struct SwapOptions {
  int64_t rounds = 2;             ///< at most; each begins where the one before ended
  int64_t tokens = 4096;          ///< of the calibration sequences, at most
  int64_t length = 128;           ///< they are cut to this
  std::filesystem::path scratch;  ///< folder for three artifacts at a time, rounded to nearest
};

struct Swapped {
  Allocation allocation;
  double kl_before = 0, kl_after = 0;  ///< KL(source || rounded) in nats per token, measured
  int64_t measurements = 0;            ///< of the whole model
};

/// `recipe`, `sensitivity`, `bytes` and `profile`: what `start` was allocated by. `source` computes in fp32. The same
/// input gives the same result for one number of threads. kResourceExhausted: disk. kBadInput: weights.
Result<Swapped> measure_swaps(const model::Decoder& source, const pass::Recipe& recipe, const pass::Registry& registry,
                              const Sensitivity& sensitivity, const Allocation& start, int64_t bytes, Profile profile,
                              const std::vector<eval::Tokens>& calibration, const SwapOptions& options,
                              CancelToken& cancel);

/// Bytes of working memory beyond the program, for plans.
int64_t swaps_bytes(const model::Decoder& source, const SwapOptions& options);

}  // namespace autoglm::search
