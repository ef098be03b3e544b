#pragma once
/// Rotary: cos and sin of rotary positions, computed where they are needed.
#include <cstdint>
#include <span>
#include <vector>

#include "core/format/model_config.h"

namespace autoglm::engine {

/// RoFormer (arXiv 2104.09864), eq. 34, with the extensions of core/format/rope.h. Immutable; thread-safe.
class Rotary {
 public:
  explicit Rotary(const format::ModelConfig& config);

  int64_t pairs() const { return config_.rotary_dim / 2; }
  /// Whether the frequencies depend on the length of the sequence, so that equal tokens at equal positions of two
  /// sequences need not have equal keys.
  bool varies() const { return varies_; }

  /// cos and sin [count, pairs] of positions first, first + 1, ... in a sequence of `length` tokens.
  void fill(int64_t first, int64_t count, int64_t length, float* cos, float* sin) const;

 private:
  const format::ModelConfig& config_;  ///< outlives this
  bool varies_;
  float scaling_;
  std::vector<float> frequencies_;  ///< within the trained length
};

}  // namespace autoglm::engine
