#include "core/eval/contract.h"

#include <fmt/format.h>

#include <cmath>

namespace autoglm::eval {

std::string format_percent(double share, int decimals) { return fmt::format("{:.{}f} %", share * 100, decimals); }

Status Contract::status() const {
  if (holds) return ok_status();
  return contract_broken(
      fmt::format("the loss is {} by {}, {} was allowed; the artifact is kept and marked. Use more "
                  "bits, a smaller group size or gptq with more calibration text, or keep the worst "
                  "tensors of report.md as they are (--override)",
                  format_percent(loss), measure, format_percent(max_loss)));
}

Result<Contract> check_contract(double max_loss, const std::optional<TaskScores>& tasks,
                                const std::optional<Divergence>& divergence) {
  Contract contract;
  contract.max_loss = max_loss;
  const std::optional<double> source_accuracy = tasks ? tasks->source_accuracy() : std::nullopt;
  if (source_accuracy && *source_accuracy > 0) {
    contract.measure = "task accuracy";
    contract.loss = (*source_accuracy - tasks->accuracy()) / *source_accuracy;
  } else if (divergence && divergence->positions > 0) {
    contract.measure = "top-1 agreement";
    contract.loss = 1 - divergence->top1_agreement;
  } else {
    return invalid_argument(
        "a bound on the loss needs the source model and text or tasks to compare on; name the "
        "source, or leave the bound out");
  }
  contract.holds = contract.loss <= max_loss + 1e-12;  // 3 of 100 answers lost is 3 %, whatever rounding says
  return contract;
}

}  // namespace autoglm::eval
