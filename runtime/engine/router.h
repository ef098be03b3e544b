#pragma once
/// Router: which experts a token goes to.
#include <cstdint>
#include <span>

#include "core/format/model_config.h"

namespace autoglm::engine {

struct Choice {
  int32_t expert = 0;
  float weight = 0;
};

/// `logits` [experts] of one token, the router's product, -> `chosen` [num_experts_per_tok], the best first. Sigmoid
/// scores; experts are chosen by score + correction inside the best `topk_group` of `n_group` groups (a group counts by
/// its two best), weighted by the score alone (DeepSeek-V3, arXiv 2412.19437, eq. 13 to 16). Equal ones: the lower
/// first. `logits` are overwritten; `correction` [experts] or empty.
void route(const format::ModelConfig& config, std::span<float> logits, std::span<const float> correction,
           std::span<Choice> chosen);

}  // namespace autoglm::engine
