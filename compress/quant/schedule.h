#pragma once
/// The order and pace in which calibration sequences are trained on. Private to the room.
#include <cstdint>
#include <vector>

#include "core/eval/scorer.h"

namespace autoglm::quant {

/// Share of the full rate at `progress` in [0, 1): rises over the first twentieth, then falls to zero along a cosine
/// (Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5).
double cosine(double progress);

/// A sixteenth of the sequences, at least one, is held back to judge by; the others are trained on.
class TrainingSplit {
 public:
  TrainingSplit(const std::vector<eval::Tokens>& sequences, uint64_t seed);

  const std::vector<size_t>& held_back() const { return held_back_; }

  /// The others, in batches of sequences of one length and at most `tokens` tokens (at least one sequence); drawn anew
  /// for each epoch.
  std::vector<std::vector<size_t>> batches(int64_t tokens, int64_t epoch) const;

 private:
  std::vector<size_t> held_back_, trained_on_;
  std::vector<size_t> lengths_;
  uint64_t seed_;
};

}  // namespace autoglm::quant
