#include "compress/model/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace autoglm::model {

Result<Sampler> Sampler::create(const SamplerOptions& options) {
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature)) {
    return invalid_argument(fmt::format("temperature is {}, must be 0 (greedy) or more", options.temperature));
  }
  if (options.top_k < 0) return invalid_argument(fmt::format("top_k is {}, must be 0 (all) or more", options.top_k));
  if (!(options.top_p > 0) || options.top_p > 1) {
    return invalid_argument(fmt::format("top_p is {}, must be above 0 and at most 1", options.top_p));
  }
  return Sampler(options);
}

Result<int32_t> Sampler::sample(std::span<const float> logits) {
  if (std::any_of(logits.begin(), logits.end(), [](float x) { return std::isnan(x); })) {
    return bad_input("the model's logits are NaN: its weights overflow in this type; compute in bfloat16 or float32");
  }
  const auto best = std::max_element(logits.begin(), logits.end());  // the first of equals
  if (best == logits.end() || !std::isfinite(*best)) return bad_input("the model's logits are not finite");
  if (options_.temperature == 0) return static_cast<int32_t>(best - logits.begin());

  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto likelier = [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  const auto limit = static_cast<int64_t>(order.size());
  const int64_t kept = options_.top_k > 0 ? std::min(options_.top_k, limit) : limit;
  std::partial_sort(order.begin(), order.begin() + kept, order.end(), likelier);
  order.resize(static_cast<size_t>(kept));

  std::vector<double> cumulative(order.size());
  double total = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    total += std::exp((static_cast<double>(logits[order[i]]) - *best) / options_.temperature);
    cumulative[i] = total;
  }
  // The nucleus ends with the token that reaches top_p of the kept probability.
  const auto reached = std::lower_bound(cumulative.begin(), cumulative.end(), options_.top_p * total);
  const auto nucleus = reached == cumulative.end() ? reached : reached + 1;
  const double u = static_cast<double>(generator_() >> 11) * 0x1p-53;
  const auto chosen = std::upper_bound(cumulative.begin(), nucleus - 1, u * *(nucleus - 1));
  return order[static_cast<size_t>(chosen - cumulative.begin())];
}

}  // namespace autoglm::model
