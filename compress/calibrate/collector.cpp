#include "compress/calibrate/collector.h"

#include <algorithm>

namespace autoglm::calibrate {

model::InputTap Collector::tap() {
  return [this](format::Stage stage, const std::vector<const model::Linear*>& linears, const at::Tensor& x) {
    if (stage != stage_) return;
    if (std::none_of(linears.begin(), linears.end(), [&](const model::Linear* l) { return wanted_(*l); })) return;
    const auto place = inputs_.try_emplace(linears.front(), Shared{linears, {needs_, expected_tokens_}}).first;
    const auto source = source_.extract(linears.front()->spec.name);
    const bool paired = !source.empty() && source.mapped().sizes() == x.sizes();
    place->second.builder.add(x, paired ? source.mapped() : at::Tensor());
  };
}

model::InputTap Collector::source_tap() {
  source_.clear();
  return [this](format::Stage stage, const std::vector<const model::Linear*>& linears, const at::Tensor& x) {
    if (stage == stage_ && needs_.drift && linears.front()->spec.expert < 0) source_[linears.front()->spec.name] = x;
  };
}

Result<StatisticsByLinear> Collector::finish() {
  StatisticsByLinear out;
  for (auto& [key, shared] : inputs_) {
    AUTOGLM_ASSIGN_OR_RETURN(InputStatistics statistics, shared.builder.finish(key->spec.name));
    const auto kept = std::make_shared<InputStatistics>(std::move(statistics));
    for (const model::Linear* linear : shared.linears) out[linear] = kept;
  }
  inputs_.clear();
  return out;
}

}  // namespace autoglm::calibrate
