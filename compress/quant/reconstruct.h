#pragma once
/// Block reconstruction: trains how the weights of one block are rounded, and its scales, norms and biases, so that the
/// block gives on the compressed predecessors' output what the source's block gives on its own, as far as it matters to
/// what the model predicts (calibrate/fisher.h). Learned rounding: W. Cheng et al. 2023, AutoRound, arXiv:2309.05516,
/// section 3; all of a block together, weighed by the Fisher information of its output: Y. Li et al. 2021, BRECQ,
/// arXiv:2102.05426, sections 3.2 and 3.3 (of which the diagonal there, a whole matrix here); and EfficientQAT's first
/// phase, arXiv:2407.11062, section 3.2.
///
/// Works on files that any method wrote: an integer begins where that method put it and moves by the gradient of its
/// position, first to the side on which the source's weight lies.
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "compress/model/decoder.h"
#include "compress/pass/journal.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/eval/scorer.h"

namespace autoglm::quant {

struct ReconstructOptions {
  int64_t steps = 200;          ///< of each block
  int64_t batch_tokens = 2048;  ///< of one step; at least one sequence
  double rate = 1e-3;           ///< of scales, norms and biases, relative to their size; falls to zero along a cosine
  double rounding_rate = 2e-3;  ///< of integers: how far one step moves a position, in units of one integer
  uint64_t seed = 0;            ///< order of the sequences
  int64_t state_bytes = INT64_MAX;         ///< of states and matrices held in memory; the rest goes to disk
  std::filesystem::path scratch;           ///< where to; a folder
  const pass::Journal* journal = nullptr;  ///< where blocks are kept as they are finished, and found; null: nowhere
};

struct ReconstructedBlock {
  int64_t layer = 0;
  /// What the output costs (calibrate::Fisher::cost, in nats for each token), on sequences that no step saw.
  double error_before = 0, error_after = 0;
  bool kept = false;  ///< false: it did not come closer and is as it was
};

/// Trains block after block of `staged`, a folder with weights that stand for `source`'s, and writes the new values
/// over the old ones. Both compute in fp32. One block and its training are in memory at a time, and the states of both
/// models, with a matrix [hidden, hidden] for each block. The same seed and thread count give the same bytes.
/// kBadInput: training gives NaN. kInvalidArgument: too few sequences, nothing quantized.
Result<std::vector<ReconstructedBlock>> reconstruct(const model::Decoder& source, const model::Decoder& staged,
                                                    const std::vector<eval::Tokens>& calibration,
                                                    const ReconstructOptions& options, CancelToken& cancel);

/// Bytes of working memory beyond the program, for plans.
int64_t reconstruct_bytes(const model::Decoder& source, int64_t sequences, int64_t length,
                          const ReconstructOptions& options);

/// Floating-point operations, for time estimates: a step is a forward and a backward pass of twice its cost.
double reconstruct_flops(const model::Decoder& source, int64_t sequences, int64_t length,
                         const ReconstructOptions& options);

}  // namespace autoglm::quant
