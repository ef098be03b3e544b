#pragma once
/// Refinement: trains what costs no bytes (the scales of quantized matrices, norms, biases) so that the whole
/// compressed model's next-token distributions come close to the source's: the end-to-end phase of EfficientQAT (M.
/// Chen et al. 2024, arXiv:2407.11062, section 3.3), with the divergence to the source in place of the text's own
/// tokens (Hinton et al. 2015, arXiv:1503.02531).
///
/// The integers of all blocks stay in memory, a byte for each weight; one block at a time is floats. A step runs
/// forward over all blocks and keeps the states between them; then it goes back, running each block again from its kept
/// input to take the gradient through it.
#include <cstdint>
#include <vector>

#include "compress/model/decoder.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/eval/scorer.h"

namespace autoglm::quant {

struct RefineOptions {
  int64_t epochs = 1;           ///< passes over the calibration tokens
  int64_t batch_tokens = 2048;  ///< of one step; at least one sequence
  double rate = 1e-3;           ///< of Adam, relative to the size of what is trained; falls to zero along a cosine
  uint64_t seed = 0;            ///< order of the sequences
};

struct Refined {
  int64_t steps = 0;
  double kl_before = 0, kl_after = 0;  ///< on a sixteenth of the sequences, which no step saw
  bool kept = false;                   ///< false: they did not come closer, and the files are as they were
};

/// Trains `staged`, a folder with weights that stand for `source`'s, and writes the new values over the old ones.
/// `calibration`: sequences of any lengths, at least two. The same seed and thread count give the same bytes.
/// kBadInput: training diverges or gives NaN. kInvalidArgument: too few sequences, nothing quantized.
Result<Refined> refine(const model::Decoder& source, const model::Decoder& staged,
                       const std::vector<eval::Tokens>& calibration, const RefineOptions& options, CancelToken& cancel);

/// Bytes of working memory beyond the program, for plans: integers and what is trained, a block as floats with its
/// gradients, states, both heads, logits.
int64_t refine_bytes(const model::Decoder& source, int64_t sequences, int64_t length, const RefineOptions& options);

/// Floating-point operations, for time estimates: a step runs forward twice, the second time to take the gradient.
double refine_flops(const model::Decoder& source, int64_t sequences, int64_t length, const RefineOptions& options);

}  // namespace autoglm::quant
