#pragma once
/// Contract: the loss that was allowed (--max-loss, --max-kl), and whether the written file keeps to it.
///
/// Loss is the relative drop of task accuracy, (source - compressed) / source, where the model folder has tasks that
/// the source can do; otherwise the share of positions where the compressed model puts another token first, 1 - top-1
/// agreement. A model that got better has a negative loss.
#include <optional>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/eval/metrics.h"
#include "core/eval/tasks.h"

namespace autoglm::eval {

struct Contract {
  double max_loss = 0;  ///< a share (0.03 is 3 %), or nats
  std::string measure;  ///< "task accuracy", "top-1 agreement" or "KL divergence"
  double loss = 0;
  /// What the loss is below with a confidence of 95 %: by the tasks that only one of the two models can do (McNemar
  /// 1947), or by the number of positions, taken as independent; of a KL divergence, itself.
  double upper = 0;
  bool holds = true;

  /// Whether it holds, and `upper` is no more than kTolerance above what was allowed.
  bool is_certain() const { return holds && (measure == kDivergence || upper <= max_loss + kTolerance); }
  static constexpr double kTolerance = 0.007;
  static constexpr std::string_view kDivergence = "KL divergence";

  /// OK, or kContractBroken with one line: what was promised, what was measured and on what, what to do.
  Status status() const;
};

/// kInvalidArgument when neither measure is there (no source to compare with).
Result<Contract> check_contract(double max_loss, const std::optional<TaskScores>& tasks,
                                const std::optional<Divergence>& divergence);

/// The same by the mean KL(source || compressed) in nats. kInvalidArgument without text to measure it on.
Result<Contract> check_divergence(double max_kl, const std::optional<Divergence>& divergence);

/// "2.94 %", "0.12 %", "-1.00 %": shares for people.
std::string format_percent(double share, int decimals = 2);

}  // namespace autoglm::eval
