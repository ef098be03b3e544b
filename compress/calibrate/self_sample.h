#pragma once
/// Text without data: token sequences that the source model itself writes, for evaluation and calibration when nothing
/// else is given (the idea of LLM-QAT, Liu et al. 2023, arXiv:2305.17888, section 3.1).
#include <cstdint>
#include <vector>

#include "compress/model/generator.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/eval/scorer.h"

namespace autoglm::calibrate {

struct SelfSampleOptions {
  int64_t count = 32;    ///< sequences
  int64_t length = 256;  ///< tokens of each, the start included
  uint64_t seed = 0;
  double temperature = 1.0;
  int64_t batch = 16;  ///< sequences generated side by side
  /// Every so many tokens one is drawn evenly from the vocabulary, 0: only the first. A model that goes on by itself
  /// keeps to what it likes to write; calibration wants inputs of every kind (of special tokens too).
  int64_t fresh_every = 0;
  eval::Tokens start;  ///< what each begins with ("[gMASK]<sop>"); empty: one token drawn from the vocabulary
};

/// Asks for less where writing would take longer than `seconds`, if one step of a batch takes `step_seconds`: half the
/// batches again and again, then half the length, down to one batch of sequences that
/// no longer halve to eval::kShortestSequence tokens.
void shorten(SelfSampleOptions& options, double step_seconds, double seconds);

/// The same options give the same sequences. Ends of text are written on, as joined documents are. A sequence begins
/// with `start`, then one token drawn evenly from the vocabulary, so that sequences differ from the first word.
Result<std::vector<eval::Tokens>> self_sample(model::Generator& generator, const SelfSampleOptions& options,
                                              CancelToken& cancel);

}  // namespace autoglm::calibrate
