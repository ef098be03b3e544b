#pragma once
/// Contract: the loss that was allowed (--max-loss), and whether the written file keeps to it.
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
  double max_loss = 0;  ///< a share: 0.03 is 3 %
  std::string measure;  ///< "task accuracy" or "top-1 agreement"
  double loss = 0;
  bool holds = true;

  /// OK, or kContractBroken with one line: what was promised, what was measured and on what, what to do.
  Status status() const;
};

/// kInvalidArgument when neither measure is there (no source to compare with).
Result<Contract> check_contract(double max_loss, const std::optional<TaskScores>& tasks,
                                const std::optional<Divergence>& divergence);

/// "2.94 %", "0.12 %", "-1.00 %": shares for people.
std::string format_percent(double share, int decimals = 2);

}  // namespace autoglm::eval
