#pragma once
/// BlockPipeline: carries out a plan. The weights are read, compressed and written piece by piece; nothing ever holds a
/// whole checkpoint.
///
/// With calibration, for each block: load; where the recipe smooths, collect what all stages get and fold scales into
/// it; then stage by stage (QKV, output, gate/up, down) collect the inputs that the
/// already compressed predecessors give, run the passes, put the compressed weights in place and write them; carry the
/// hidden states on; free. Without, tensors are handled one by one and the decoder never runs.
///
/// With a journal, blocks that are in it are taken from there: the states are carried over them as they were then, so
/// that what follows, and every byte, is the same.
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "compress/calibrate/hidden_states.h"
#include "compress/model/decoder.h"
#include "compress/pass/journal.h"
#include "compress/pass/plan.h"
#include "compress/pass/recipe.h"
#include "compress/pass/registry.h"
#include "compress/pass/resolve.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/eval/scorer.h"
#include "core/format/checkpoint_writer.h"

namespace autoglm::pass {

/// What the report says of one tensor.
struct TensorReport {
  std::string name, method, scheme;
  double mse = 0, cosine = 1;  ///< dequantized against the weight as it was before the pass
  double output_error = 0;     ///< ||X (W - Q)^T||^2 / ||X W^T||^2 on a sample of calibration inputs; 0 without
  std::string note;            ///< damping raised, dead channels, ...
};

struct PipelineReport {
  std::vector<TensorReport> tensors;  ///< in the order of writing
  std::vector<std::pair<std::string, double>>
      seconds;  ///< by stage: "loading", "smoothing", "calibration", "quantizing", ...
  std::vector<std::string> carried_over, dropped;  ///< tensors copied untouched; with no place in the result
  int64_t predicted_peak_rss = 0, peak_rss = 0;    ///< bytes; the second is VmHWM when the pipeline ended
  int64_t bytes_written = 0;                       ///< of tensors
  int64_t calibration_tokens = 0;
};

struct PipelineInput {
  const Recipe* recipe = nullptr;
  const Registry* registry = nullptr;
  const Resolved* resolved = nullptr;
  const Plan* plan = nullptr;
  const model::Decoder* source = nullptr;
  std::vector<eval::Tokens> calibration;  ///< none where no method needs any
  const Journal* journal = nullptr;       ///< where blocks are kept as they are finished, and found; null: nowhere

  /// Shown the states after each block, as the compressed model computes them; may be empty.
  std::function<Status(int64_t layer, const calibrate::HiddenStates& states)> after_block;
};

/// Writes every tensor, config.json and the small files beside it (tokenizer, generation config, chat template) into
/// `writer`; the caller adds what is its own and commits. On failure the writer's destructor removes everything.
/// Deterministic for one number of threads. Errors: kBadInput (weights, calibration), kResourceExhausted, kCancelled.
Result<PipelineReport> run_pipeline(const PipelineInput& input, format::CheckpointWriter& writer, CancelToken& cancel);

}  // namespace autoglm::pass
