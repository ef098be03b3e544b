#pragma once
/// Collector: fills statistics of the inputs of one stage while batches run through a block.
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "compress/calibrate/statistics.h"
#include "compress/model/block.h"
#include "core/base/status.h"

namespace autoglm::calibrate {

/// Statistics by linear; linears that share an input share one object.
using StatisticsByLinear = std::map<const model::Linear*, std::shared_ptr<InputStatistics>>;

/// Not thread-safe; must outlive the forward passes that use its tap.
class Collector {
 public:
  /// Watches the inputs of `stage` that reach a linear for which `wanted` holds.
  Collector(format::Stage stage, const Needs& needs, int64_t expected_tokens,
            std::function<bool(const model::Linear&)> wanted)
      : stage_(stage), needs_(needs), expected_tokens_(expected_tokens), wanted_(std::move(wanted)) {}

  model::InputTap tap();

  /// Watches the source on the same batch; to be run before `tap` sees that batch. What both see of one linear, of one
  /// shape, is paired for Needs::drift; routed experts, whose tokens differ, are not.
  model::InputTap source_tap();

  /// kBadInput: NaN or infinity, with the name of the module. A linear that saw no token (an expert) is absent.
  Result<StatisticsByLinear> finish();

 private:
  struct Shared {
    std::vector<const model::Linear*> linears;
    StatisticsBuilder builder;
  };
  format::Stage stage_;
  Needs needs_;
  int64_t expected_tokens_;
  std::function<bool(const model::Linear&)> wanted_;
  std::map<const model::Linear*, Shared> inputs_;  // by the first linear of those that share
  std::map<std::string, at::Tensor> source_;       // inputs of the batch at hand, by the first linear's name
};

}  // namespace autoglm::calibrate
