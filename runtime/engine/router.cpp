#include "runtime/engine/router.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace autoglm::engine {
namespace {

/// The indices of the `count` largest of `values`, the largest first.
std::vector<int32_t> largest(std::span<const float> values, size_t count) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  count = std::min(count, order.size());
  // Damaged weights give NaN, which no order may meet: it counts as the least.
  const auto key = [&](int32_t i) { return std::isnan(values[i]) ? -INFINITY : values[i]; };
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                    [&](int32_t a, int32_t b) { return key(a) != key(b) ? key(a) > key(b) : a < b; });
  order.resize(count);
  return order;
}

}  // namespace

void route(const format::ModelConfig& config, std::span<float> logits, std::span<const float> correction,
           std::span<Choice> chosen) {
  const size_t experts = logits.size(), groups = static_cast<size_t>(config.n_group), size = experts / groups;
  for (float& x : logits) x = 1 / (1 + std::exp(-x));
  std::vector<float> choice(logits.begin(), logits.end());
  for (size_t e = 0; e < correction.size(); ++e) choice[e] += correction[e];
  if (groups > 1) {
    std::vector<float> best_two(groups);
    for (size_t g = 0; g < groups; ++g) {
      const std::span<const float> group(choice.data() + g * size, size);
      for (const int32_t e : largest(group, 2)) best_two[g] += group[e];
    }
    std::vector<bool> kept(groups);
    for (const int32_t g : largest(best_two, static_cast<size_t>(config.topk_group))) kept[g] = true;
    for (size_t e = 0; e < experts; ++e) {
      if (!kept[e / size]) choice[e] = -INFINITY;
    }
  }
  const std::vector<int32_t> best = largest(choice, chosen.size());
  float sum = 0;
  for (size_t i = 0; i < best.size(); ++i) {
    chosen[i] = {best[i], logits[best[i]]};
    sum += chosen[i].weight;
  }
  const float norm = config.norm_topk_prob ? sum + 1e-20F : 1;
  for (Choice& one : chosen) one.weight = one.weight / norm * static_cast<float>(config.routed_scaling_factor);
}

}  // namespace autoglm::engine
