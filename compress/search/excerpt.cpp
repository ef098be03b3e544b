#include "compress/search/excerpt.h"

#include <algorithm>

namespace autoglm::search {

Excerpt Excerpt::of(const std::vector<eval::Tokens>& calibration, int64_t tokens, int64_t length) {
  Excerpt out;
  for (const eval::Tokens& sequence : calibration) {
    const auto taken = std::min(static_cast<int64_t>(sequence.size()), length);
    if (taken < 2 || out.tokens + taken > tokens) continue;
    out.sequences.emplace_back(sequence.begin(), sequence.begin() + taken);
    out.tokens += taken;
  }
  return out;
}

}  // namespace autoglm::search
