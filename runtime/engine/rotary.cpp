#include "runtime/engine/rotary.h"

#include <cmath>

#include "core/format/rope.h"

namespace autoglm::engine {
namespace {

std::vector<float> frequencies(const format::ModelConfig& config, int64_t length) {
  const std::vector<double> exact = format::rope_inverse_frequencies(config, length);
  return {exact.begin(), exact.end()};
}

}  // namespace

Rotary::Rotary(const format::ModelConfig& config)
    : config_(config),
      varies_(!format::has_fixed_frequencies(config)),
      scaling_(static_cast<float>(format::rope_attention_scaling(config))),
      frequencies_(frequencies(config, 0)) {}

void Rotary::fill(int64_t first, int64_t count, int64_t length, float* cos, float* sin) const {
  const std::vector<float> own = varies_ ? frequencies(config_, length) : std::vector<float>();
  const std::vector<float>& table = varies_ ? own : frequencies_;
  for (int64_t i = 0; i < count; ++i) {
    // In float throughout, so that far positions get the rounding that transformers gives them.
    const auto position = static_cast<float>(first + i);
    for (const float frequency : table) {
      *cos++ = std::cos(position * frequency) * scaling_;
      *sin++ = std::sin(position * frequency) * scaling_;
    }
  }
}

}  // namespace autoglm::engine
