#include "compress/quant/schedule.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/eval/random.h"

namespace autoglm::quant {
namespace {

constexpr double kHeldBack = 1.0 / 16;
constexpr double kWarmUp = 0.05;

}  // namespace

double cosine(double progress) {
  const double warm = std::min(1.0, (progress + 1e-9) / kWarmUp);
  return warm * 0.5 * (1 + std::cos(M_PI * progress));
}

TrainingSplit::TrainingSplit(const std::vector<eval::Tokens>& sequences, uint64_t seed) : seed_(seed) {
  for (const eval::Tokens& sequence : sequences) lengths_.push_back(sequence.size());
  const auto count = static_cast<int64_t>(sequences.size());
  const auto held = std::max<size_t>(1, static_cast<size_t>(kHeldBack * static_cast<double>(count)));
  for (const int64_t i : eval::draw_indices(count, count, seed)) {
    (held_back_.size() < held ? held_back_ : trained_on_).push_back(static_cast<size_t>(i));
  }
}

std::vector<std::vector<size_t>> TrainingSplit::batches(int64_t tokens, int64_t epoch) const {
  std::map<size_t, std::vector<size_t>> by_length;
  const auto count = static_cast<int64_t>(trained_on_.size());
  for (const int64_t i : eval::draw_indices(count, count, seed_ + 1 + static_cast<uint64_t>(epoch))) {
    const size_t sequence = trained_on_[static_cast<size_t>(i)];
    by_length[lengths_[sequence]].push_back(sequence);
  }
  std::vector<std::vector<size_t>> out;
  for (const auto& [length, sequences] : by_length) {
    const size_t at_once = std::max<size_t>(1, static_cast<size_t>(tokens) / length);
    for (size_t i = 0; i < sequences.size(); i += at_once) {
      out.emplace_back(sequences.begin() + static_cast<std::ptrdiff_t>(i),
                       sequences.begin() + static_cast<std::ptrdiff_t>(std::min(i + at_once, sequences.size())));
    }
  }
  std::vector<std::vector<size_t>> shuffled;  // so that lengths are mixed
  const auto batches = static_cast<int64_t>(out.size());
  for (const int64_t i : eval::draw_indices(batches, batches, seed_ + static_cast<uint64_t>(epoch))) {
    shuffled.push_back(std::move(out[static_cast<size_t>(i)]));
  }
  return shuffled;
}

}  // namespace autoglm::quant
