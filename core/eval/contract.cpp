#include "core/eval/contract.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace autoglm::eval {
namespace {

constexpr double kOneSided95 = 1.645;  // quantile of the normal distribution

}  // namespace

std::string format_percent(double share, int decimals) { return fmt::format("{:.{}f} %", share * 100, decimals); }

Status Contract::status() const {
  if (holds) return ok_status();
  const auto amount = [&](double value) {
    return measure == kDivergence ? fmt::format("{:.4f}", value) : format_percent(value);
  };
  return contract_broken(
      fmt::format("the loss is {} by {}, {} was allowed; the artifact is kept and marked. Use more "
                  "bits, a smaller group size or gptq with more calibration text, or keep the worst "
                  "tensors of report.md as they are (--override)",
                  amount(loss), measure, amount(max_loss)));
}

Result<Contract> check_contract(double max_loss, const std::optional<TaskScores>& tasks,
                                const std::optional<Divergence>& divergence) {
  Contract contract;
  contract.max_loss = max_loss;
  const std::optional<double> source_accuracy = tasks ? tasks->source_accuracy() : std::nullopt;
  if (source_accuracy && *source_accuracy > 0) {
    contract.measure = "task accuracy";
    contract.loss = (*source_accuracy - tasks->accuracy()) / *source_accuracy;
    const auto differing = static_cast<double>(tasks->lost.value_or(0) + tasks->gained.value_or(0));
    contract.upper =
        contract.loss + kOneSided95 * std::sqrt(std::max(1.0, differing)) / static_cast<double>(*tasks->source_correct);
  } else if (divergence && divergence->positions > 0) {
    contract.measure = "top-1 agreement";
    contract.loss = 1 - divergence->top1_agreement;
    const auto positions = static_cast<double>(divergence->positions);
    contract.upper = contract.loss + kOneSided95 * std::sqrt(std::max(1.0, contract.loss * positions)) / positions;
  } else {
    return invalid_argument(
        "a bound on the loss needs the source model and text or tasks to compare on; name the "
        "source, or leave the bound out");
  }
  contract.holds = contract.loss <= max_loss + 1e-12;  // 3 of 100 answers lost is 3 %, whatever rounding says
  return contract;
}

Result<Contract> check_divergence(double max_kl, const std::optional<Divergence>& divergence) {
  if (!divergence || divergence->positions == 0) {
    return invalid_argument("a bound on the KL divergence needs the source model and text to compare on");
  }
  Contract contract;
  contract.max_loss = max_kl;
  contract.measure = Contract::kDivergence;
  contract.loss = contract.upper = divergence->kl_mean;
  contract.holds = contract.loss <= max_kl;
  return contract;
}

}  // namespace autoglm::eval
