#include "core/tokenizer/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace autoglm::tokenizer {

Result<Sampler> Sampler::create(const SamplerOptions& options, int64_t vocab_size) {
  const auto refuse = [](std::string_view name, double value, std::string_view range) {
    return invalid_argument(fmt::format("{} is {}, must be {}", name, value, range));
  };
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature)) {
    return refuse("temperature", options.temperature, "0 (greedy) or more");
  }
  if (options.top_k < 0) return refuse("top_k", static_cast<double>(options.top_k), "0 (all) or more");
  if (!(options.top_p > 0) || options.top_p > 1) return refuse("top_p", options.top_p, "above 0 and at most 1");
  if (!(options.min_p >= 0) || options.min_p > 1) return refuse("min_p", options.min_p, "from 0 to 1");
  if (!(options.repetition_penalty > 0) || !std::isfinite(options.repetition_penalty)) {
    return refuse("repetition_penalty", options.repetition_penalty, "above 0 (1: none)");
  }
  for (const auto& [id, bias] : options.logit_bias) {
    if (id < 0 || id >= vocab_size) {
      return invalid_argument(
          fmt::format("logit_bias names the token id {}, outside the vocabulary of {}", id, vocab_size));
    }
    if (std::isnan(bias) || bias == INFINITY) return refuse("logit_bias", bias, "a finite number or -inf");
  }
  return Sampler(options, vocab_size);
}

Sampler::Sampler(const SamplerOptions& options, int64_t vocab_size) : options_(options), generator_(options.seed) {
  if (options.repetition_penalty != 1) seen_.resize(static_cast<size_t>(vocab_size));
}

void Sampler::observe(int32_t id) {
  if (seen_.empty() || seen_[static_cast<size_t>(id)]) return;
  seen_[static_cast<size_t>(id)] = true;
  seen_ids_.push_back(id);
}

Result<int32_t> Sampler::sample(std::span<float> logits, SamplerScratch& scratch) {
  if (std::any_of(logits.begin(), logits.end(), [](float x) { return std::isnan(x); })) {
    return bad_input(
        "the model's logits are NaN: its weights are damaged, or overflow in this type (bfloat16 and float32 hold "
        "more)");
  }
  for (const auto& [id, bias] : options_.logit_bias) logits[static_cast<size_t>(id)] += bias;
  const auto penalty = static_cast<float>(options_.repetition_penalty);
  for (const int32_t id : seen_ids_) {
    float& logit = logits[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
  const auto best = std::max_element(logits.begin(), logits.end());  // the first of equals
  if (best == logits.end() || !std::isfinite(*best)) return bad_input("the model's logits are not finite");
  if (options_.temperature == 0) return static_cast<int32_t>(best - logits.begin());

  const double u = static_cast<double>(generator_() >> 11) * 0x1p-53;
  if (options_.top_k > 0 || options_.top_p < 1 || options_.min_p > 0) return sample_nucleus(logits, *best, u, scratch);
  double total = 0;
  std::vector<double>& cumulative = scratch.cumulative;
  cumulative.resize(logits.size());
  for (size_t id = 0; id < logits.size(); ++id) {
    cumulative[id] = total += std::exp((static_cast<double>(logits[id]) - *best) / options_.temperature);
  }
  const auto chosen = std::upper_bound(cumulative.begin(), cumulative.end() - 1, u * total);
  return static_cast<int32_t>(chosen - cumulative.begin());
}

int32_t Sampler::sample_nucleus(std::span<const float> logits, float best, double u, SamplerScratch& scratch) const {
  std::vector<int32_t>& order = scratch.order;
  std::vector<double>& cumulative = scratch.cumulative;
  const auto weight = [&](int32_t id) {
    return std::exp((static_cast<double>(logits[static_cast<size_t>(id)]) - best) / options_.temperature);
  };
  const auto less_likely = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x < y : a > b;
  };
  order.resize(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto wanted = options_.top_k > 0 ? std::min(static_cast<size_t>(options_.top_k), order.size()) : order.size();
  if (wanted < order.size()) {
    std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(wanted), order.end(),
                     [&](int32_t a, int32_t b) { return less_likely(b, a); });
    order.resize(wanted);
  }
  double mass = 0;  // of the top k
  for (const int32_t id : order) mass += weight(id);
  // A heap gives the ids in falling order as far as they are wanted, which is seldom far.
  std::make_heap(order.begin(), order.end(), less_likely);

  // The nucleus ends with the token that reaches top_p of that mass, and before one that is less likely than min_p.
  // What leaves the heap stands behind it, the likeliest last.
  cumulative.clear();
  cumulative.reserve(order.size());
  double total = 0;
  for (auto end = order.end(); end != order.begin() && total < options_.top_p * mass;) {
    const double next = weight(order.front());
    if (!cumulative.empty() && (next < options_.min_p || next == 0)) break;
    std::pop_heap(order.begin(), end--, less_likely);
    cumulative.push_back(total += next);
  }
  const auto chosen = std::upper_bound(cumulative.begin(), cumulative.end() - 1, u * total);
  return order[order.size() - 1 - static_cast<size_t>(chosen - cumulative.begin())];
}

}  // namespace autoglm::tokenizer
