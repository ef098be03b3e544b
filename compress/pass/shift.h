#pragma once
/// Shift: how far calibration text lies from the text that a model is used on, input by input, and what quantizing on
/// the one costs on the other.
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "compress/model/decoder.h"
#include "compress/pass/registry.h"
#include "compress/pass/scheme.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/eval/scorer.h"

namespace autoglm::pass {

struct TextSet {
  std::string name;
  std::vector<eval::Tokens> sequences;
};

/// What one input of the model's blocks looks like on calibration text, beside what it looks like on evaluation text.
struct InputShift {
  std::string input;  ///< name of the first module that reads it
  int64_t layer = 0;
  double distance = 0;          ///< Jensen-Shannon distance (0..1) between the histograms of all values
  double channel_distance = 0;  ///< |rms_c - rms_e| / |rms_e|, rms over the tokens for each channel
  double range_ratio = 1;  ///< largest magnitude in evaluation over the largest in calibration; 1 where both are zero
  double error = 0;        ///< ||X (W - Q)^T||^2 / ||X W^T||^2 on evaluation inputs X, Q made on the calibration set
  double own_error = 0;    ///< the same with Q made on the evaluation set itself: what is to be had

  double excess() const { return own_error > 0 ? error / own_error - 1 : 0; }
};

struct SetShift {
  std::string name;
  int64_t tokens = 0;
  std::vector<InputShift> inputs;  ///< in the order of the model
};

struct ShiftOptions {
  Scheme scheme = *Scheme::parse("int4");
  std::string method = "gptq";    ///< needs calibration
  int64_t batch_tokens = 1024;    ///< run through a block at once
  int64_t state_bytes = 1 << 30;  ///< states of all sets held in memory; the rest goes to a file in `scratch`
  std::filesystem::path scratch;
};

/// Runs all sets through the source, one block in memory at a time, and quantizes every matrix of the blocks on each of
/// them. Routed experts are left out: which tokens they see is a matter of the text. Errors: as the pipeline's;
/// kInvalidArgument: a set without sequences, a method that needs no calibration.
Result<std::vector<SetShift>> measure_shift(const model::Decoder& source, const Registry& registry,
                                            const std::vector<TextSet>& calibration, const TextSet& evaluation,
                                            const ShiftOptions& options, CancelToken& cancel);

/// Bytes of working memory that it takes, states included.
int64_t shift_bytes(const model::Decoder& source, const std::vector<TextSet>& calibration, const TextSet& evaluation,
                    const ShiftOptions& options);

}  // namespace autoglm::pass
