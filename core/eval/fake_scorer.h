#pragma once
/// A tiny deterministic bigram model for the tests of this room: the logits after a token are a row of a table.
#include <algorithm>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "core/eval/scorer.h"

namespace autoglm::eval {

class FakeScorer : public Scorer {
 public:
  /// table[t] are the logits after token t; square.
  explicit FakeScorer(std::vector<std::vector<float>> table) : table_(std::move(table)) {}

  int64_t vocab_size() const override { return static_cast<int64_t>(table_.size()); }

  Status can_score(int64_t tokens) const override {
    return tokens <= most_tokens ? ok_status() : resource_exhausted("a block needs 9 GB in memory, 4 GB are allowed");
  }

  Result<std::unique_ptr<ScoredBatch>> score(const std::vector<Tokens>& sequences, CancelToken& cancel) override {
    AUTOGLM_RETURN_IF_ERROR(cancel.check());
    int64_t tokens = 0;
    for (const Tokens& sequence : sequences) tokens += static_cast<int64_t>(sequence.size());
    AUTOGLM_RETURN_IF_ERROR(can_score(tokens));
    ++calls;
    tokens_scored += tokens;
    spend(tokens);
    return std::unique_ptr<ScoredBatch>(new Batch(*this, sequences));
  }

  Result<std::vector<Tokens>> generate(const std::vector<Tokens>& prompts, int64_t max_new_tokens,
                                       const std::vector<int64_t>& stop, CancelToken& cancel) override {
    AUTOGLM_RETURN_IF_ERROR(cancel.check());
    if (!fits_in_memory) return resource_exhausted("the model needs 9 GB in memory, 4 GB are allowed");
    std::vector<Tokens> all;
    for (const Tokens& prompt : prompts) {
      Tokens out;
      for (int32_t last = prompt.back(); static_cast<int64_t>(out.size()) < max_new_tokens; out.push_back(last)) {
        const auto& row = table_[static_cast<size_t>(last)];
        last = static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
        if (std::find(stop.begin(), stop.end(), last) != stop.end()) break;
      }
      spend(static_cast<int64_t>(prompt.size() + out.size()));
      all.push_back(std::move(out));
    }
    return all;
  }

  Result<std::vector<double>> step_milliseconds(const Tokens&, int64_t steps, CancelToken& cancel) override {
    AUTOGLM_RETURN_IF_ERROR(cancel.check());
    if (!fits_in_memory) return resource_exhausted("the model needs 9 GB in memory, 4 GB are allowed");
    steps_timed = steps;
    spend(steps);
    return std::vector<double>(static_cast<size_t>(std::min(steps, most_steps)), 1000 * seconds_per_token);
  }

  bool fits_in_memory = true;
  int64_t most_steps = std::numeric_limits<int64_t>::max();   ///< before the context ends
  int64_t most_tokens = std::numeric_limits<int64_t>::max();  ///< that can be scored together
  int64_t calls = 0, tokens_scored = 0, steps_timed = 0;

  /// Every call costs `seconds_per_call`, every token `seconds_per_token`, on `clock` where there is one.
  double* clock = nullptr;
  double seconds_per_call = 0, seconds_per_token = 0.0025;
  std::function<double(int64_t)> pace;  ///< multiplies the cost of the n-th call (0: the first) where it is set

 private:
  void spend(int64_t tokens) {
    const double factor = pace ? pace(spent_++) : 1;
    if (clock != nullptr) *clock += factor * (seconds_per_call + seconds_per_token * static_cast<double>(tokens));
  }

  class Batch : public ScoredBatch {
   public:
    Batch(const FakeScorer& model, std::vector<Tokens> sequences) : model_(model), sequences_(std::move(sequences)) {}
    Status logits(int64_t sequence, int64_t first, int64_t count, std::span<float> out) const override {
      const Tokens& tokens = sequences_[static_cast<size_t>(sequence)];
      for (int64_t i = 0; i < count; ++i) {
        const auto& row = model_.table_[static_cast<size_t>(tokens[static_cast<size_t>(first + i)])];
        std::copy(row.begin(), row.end(), out.begin() + i * static_cast<int64_t>(row.size()));
      }
      return ok_status();
    }

   private:
    const FakeScorer& model_;
    std::vector<Tokens> sequences_;
  };

  std::vector<std::vector<float>> table_;
  int64_t spent_ = 0;
};

}  // namespace autoglm::eval
