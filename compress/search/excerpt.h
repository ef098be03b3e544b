#pragma once
/// Excerpt: as much of the calibration text as a measurement of the whole model runs on. Private to the room.
#include <cstdint>
#include <vector>

#include "core/eval/scorer.h"

namespace autoglm::search {

struct Excerpt {
  std::vector<eval::Tokens> sequences;
  int64_t tokens = 0;  ///< of all of them

  /// The first `length` tokens of each sequence that has two and still fits into `tokens` altogether.
  static Excerpt of(const std::vector<eval::Tokens>& calibration, int64_t tokens, int64_t length);
};

}  // namespace autoglm::search
