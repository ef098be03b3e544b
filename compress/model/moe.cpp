/// Mixture of experts: routing, and each expert run over the tokens it was given.
#include <ATen/ATen.h>

#include <algorithm>

#include "compress/model/layers.h"

namespace autoglm::model {

Routing route(const format::ModelConfig& config, const Moe& moe, const at::Tensor& x) {
  const int64_t experts = moe.router.size(0), group_size = experts / config.n_group;
  const at::Tensor scores = at::linear(x.to(at::kFloat), moe.router).sigmoid();
  at::Tensor choice = moe.correction.defined() ? scores + moe.correction : scores;
  if (config.n_group > 1) {
    const at::Tensor groups = choice.view({-1, config.n_group, group_size});
    const at::Tensor best_two = std::get<0>(groups.topk(std::min<int64_t>(2, group_size), -1)).sum(-1);
    const at::Tensor chosen = std::get<1>(best_two.topk(config.topk_group, -1));
    const at::Tensor kept = at::zeros_like(best_two, at::kBool).scatter_(1, chosen, true);
    choice = groups.masked_fill(kept.logical_not().unsqueeze(-1), -INFINITY).view({-1, experts});
  }
  const at::Tensor indices = std::get<1>(choice.topk(config.num_experts_per_tok, -1));
  at::Tensor weights = scores.gather(1, indices);
  if (config.norm_topk_prob) weights = weights / (weights.sum(-1, /*keepdim=*/true) + 1e-20);
  return {weights * config.routed_scaling_factor, indices};
}

at::Tensor run_moe(const format::ModelConfig& config, const Moe& moe, const at::Tensor& x,
                   const ForwardOptions& options) {
  const Routing routing = route(config, moe, x);
  const auto count = static_cast<int64_t>(moe.experts.size());
  // Token-expert pairs sorted by expert: each expert's tokens are one slice, in rising order.
  const at::Tensor flat = routing.experts.flatten();
  const at::Tensor order = std::get<1>(at::sort(flat, /*stable=*/true, 0, /*descending=*/false));
  const at::Tensor tokens = order.div(config.num_experts_per_tok, "floor");
  const at::Tensor weights = routing.weights.flatten().index_select(0, order).unsqueeze(1);
  const at::Tensor loads = at::bincount(flat, {}, count).cpu();

  at::Tensor out = at::zeros_like(x);
  bool complete = true;
  int64_t begin = 0;
  for (int64_t e = 0; e < count; ++e) {
    const int64_t load = loads[e].item<int64_t>();
    if (load == 0) continue;
    const at::Tensor mine = tokens.narrow(0, begin, load);
    const at::Tensor y = run_mlp(moe.experts[e], x.index_select(0, mine), options);
    if (y.defined()) out.index_add_(0, mine, (y * weights.narrow(0, begin, load)).to(x.scalar_type()));
    complete = complete && y.defined();
    begin += load;
  }
  if (moe.shared) {
    const at::Tensor y = run_mlp(*moe.shared, x, options);
    complete = complete && y.defined();
    if (complete) out.add_(y);
  }
  return complete ? out : at::Tensor();
}

}  // namespace autoglm::model
