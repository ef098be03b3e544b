#pragma once
/// evaluate(): everything that is measured of a written model, within the time that is allowed.
///
/// `fast` measures its own speed on a small first piece of each kind of work, and again on every further one, until the
/// time is used: numbers of sequences and tasks have three significant bits, unless all fit, so that they seldom differ
/// between runs, and fewer are the beginning of more. `full` takes everything up to the bounds below. What was
/// shortened or left out is in `notes`.
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/eval/report.h"
#include "core/eval/scorer.h"
#include "core/eval/tasks.h"
#include "core/format/stored_model.h"
#include "core/tokenizer/tokenizer.h"

namespace autoglm::eval {

enum class VerifyLevel { kNone, kFast, kFull };
std::string_view to_string(VerifyLevel level);

/// "none", "fast", "full". kInvalidArgument lists them.
Result<VerifyLevel> parse_verify_level(std::string_view word);

inline constexpr int64_t kFullTokens = 262'144;    ///< of held-out text, with `full`
inline constexpr int64_t kFullTasks = 4'000;       ///< with `full`
inline constexpr int64_t kProbeTokens = 32;        ///< the least text `fast` compares on
inline constexpr int64_t kFirstTasks = 8;          ///< the fewest tasks `fast` asks, where there are as many
inline constexpr int64_t kContractTasks = 128;     ///< the fewest asked, whatever the time, for a bound on the loss
inline constexpr int64_t kContractTokens = 2'048;  ///< the least text, whatever the time, for a bound judged by it
inline constexpr int64_t kLatencyContext = 32;     ///< tokens before the timed steps
inline constexpr int64_t kLatencySteps = 100;
inline constexpr int64_t kFirstLatencySteps = 3;  ///< the fewest steps `fast` times

/// What to measure on; all of it may be missing, then it is not measured.
struct EvaluateInputs {
  std::vector<Tokens> sequences;  ///< held-out text, in the order of its use
  std::vector<Task> tasks;
  const tokenizer::Tokenizer* tokenizer = nullptr;        ///< for the tasks
  std::vector<int64_t> stop;                              ///< end tokens of answers
  const format::StoredModel* compressed_files = nullptr;  ///< for sizes and weights
  const format::StoredModel* source_files = nullptr;
};

struct EvaluateOptions {
  VerifyLevel level = VerifyLevel::kFast;
  double seconds = 60;             ///< that `fast` may take, its least text and what a bound wants apart
  uint64_t seed = 0;               ///< which tasks are asked
  std::optional<double> max_loss;  ///< fills `contract`
  std::optional<double> max_kl;    ///< in its place
  std::function<double()> now;     ///< seconds of a clock; empty: the machine's steady clock
};

/// Measures `compressed`, against `source` unless it is null. Of the result's `text` it fills `sequences` and `length`;
/// the rest of `text`, and `conditions`, are the caller's. Where a scorer cannot hold its model in memory
/// (kResourceExhausted), tasks and latency are left out with a note, and text where it cannot hold what scoring needs;
/// every other error is returned. kResourceExhausted: so little was measured that a contract cannot be judged.
Result<Evaluation> evaluate(Scorer* source, Scorer& compressed, const EvaluateInputs& inputs,
                            const EvaluateOptions& options, CancelToken& cancel);

}  // namespace autoglm::eval
