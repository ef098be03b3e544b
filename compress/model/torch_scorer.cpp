#include "compress/model/torch_scorer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <numeric>
#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

#include "compress/model/generator.h"
#include "compress/tensor/bridge.h"
#include "core/base/memory.h"

namespace autoglm::model {
namespace {

using eval::Tokens;

constexpr int64_t kTokensTogether = 16'384;  // that a caller may score after the head was kept

/// Sequences of one length, which run through a block without padding.
struct Group {
  int64_t length = 0;
  std::vector<int64_t> members;  ///< indices into the caller's sequences
  at::Tensor hidden;             ///< [members, length, hidden]
};

class TorchBatch : public eval::ScoredBatch {
 public:
  TorchBatch(const Decoder& decoder, std::vector<Group> groups, size_t sequences)
      : decoder_(decoder), groups_(std::move(groups)), places_(sequences) {
    for (size_t g = 0; g < groups_.size(); ++g) {
      for (size_t row = 0; row < groups_[g].members.size(); ++row) {
        places_[static_cast<size_t>(groups_[g].members[row])] = {g, static_cast<int64_t>(row)};
      }
    }
  }

  Status logits(int64_t sequence, int64_t first, int64_t count, std::span<float> out) const override {
    return tensor::guarded([&]() -> Status {
      if (sequence < 0 || sequence >= static_cast<int64_t>(places_.size())) {
        return invalid_argument(fmt::format("the batch has no sequence {}", sequence));
      }
      const auto [group, row] = places_[static_cast<size_t>(sequence)];
      const Group& g = groups_[group];
      const auto wanted = static_cast<size_t>(count * decoder_.config().vocab_size);
      if (first < 0 || count < 0 || first > g.length - count || out.size() < wanted) {
        return invalid_argument(
            fmt::format("positions {} to {} of a sequence of {} tokens cannot be read into {} values", first,
                        first + count, g.length, out.size()));
      }
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor rows, decoder_.logits(g.hidden[row].narrow(0, first, count)));
      std::memcpy(out.data(), rows.cpu().contiguous().const_data_ptr<float>(), wanted * sizeof(float));
      return ok_status();
    });
  }

 private:
  const Decoder& decoder_;
  std::vector<Group> groups_;
  std::vector<std::pair<size_t, int64_t>> places_;  ///< group and row of each sequence
};

class TorchScorer : public eval::Scorer {
 public:
  TorchScorer(const Decoder& decoder, const TorchScorerOptions& options) : decoder_(decoder), options_(options) {}

  int64_t vocab_size() const override { return decoder_.config().vocab_size; }

  Status can_score(int64_t tokens) const override {
    const int64_t needed = scoring_bytes(tokens), allowed = std::max(options_.max_bytes, options_.least_bytes);
    if (options_.max_bytes == 0 || generator_ || needed <= allowed) return ok_status();
    return resource_exhausted(fmt::format("one block and the states of {} tokens need {} of memory, and {} are left",
                                          tokens, format_bytes(needed), format_bytes(allowed)));
  }

  Result<std::unique_ptr<eval::ScoredBatch>> score(const std::vector<Tokens>& sequences, CancelToken& cancel) override {
    return tensor::guarded([&]() -> Result<std::unique_ptr<eval::ScoredBatch>> {
      const at::NoGradGuard no_grad;
      int64_t tokens = 0;
      for (const Tokens& sequence : sequences) tokens += static_cast<int64_t>(sequence.size());
      AUTOGLM_RETURN_IF_ERROR(can_score(tokens));
      const int64_t with_head = scoring_bytes(std::max(tokens, kTokensTogether)) + decoder_.head_bytes();
      if (options_.max_bytes == 0 || with_head <= options_.max_bytes) {
        AUTOGLM_RETURN_IF_ERROR(decoder_.keep_head());
      }
      AUTOGLM_ASSIGN_OR_RETURN(std::vector<Group> groups, embed(sequences, cancel));
      for (int64_t layer = 0; layer < decoder_.config().num_hidden_layers; ++layer) {
        AUTOGLM_RETURN_IF_ERROR(run_layer(layer, groups, cancel));
      }
      return std::unique_ptr<eval::ScoredBatch>(new TorchBatch(decoder_, std::move(groups), sequences.size()));
    });
  }

  Result<std::vector<Tokens>> generate(const std::vector<Tokens>& prompts, int64_t max_new_tokens,
                                       const std::vector<int64_t>& stop, CancelToken& cancel) override {
    return tensor::guarded([&]() -> Result<std::vector<Tokens>> {
      std::vector<Tokens> answers(prompts.size());
      if (max_new_tokens <= 0) return answers;
      AUTOGLM_RETURN_IF_ERROR(ensure_generator(cancel));
      // Prompts of similar length side by side: little padding.
      std::vector<size_t> order(prompts.size());
      std::iota(order.begin(), order.end(), size_t{0});
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t a, size_t b) { return prompts[a].size() < prompts[b].size(); });
      const std::unordered_set<int64_t> ends(stop.begin(), stop.end());
      const auto width = static_cast<size_t>(std::max<int64_t>(1, options_.prompts_at_once));
      for (size_t begin = 0; begin < order.size(); begin += width) {
        const size_t end = std::min(begin + width, order.size());
        AUTOGLM_RETURN_IF_ERROR(generate_batch(prompts, std::span(order).subspan(begin, end - begin), max_new_tokens,
                                               ends, answers, cancel));
      }
      return answers;
    });
  }

  Result<std::vector<double>> step_milliseconds(const Tokens& prompt, int64_t steps, CancelToken& cancel) override {
    return tensor::guarded([&]() -> Result<std::vector<double>> {
      if (prompt.empty() || steps < 1) return invalid_argument("latency needs a prompt and at least one step");
      AUTOGLM_RETURN_IF_ERROR(ensure_generator(cancel));
      AUTOGLM_ASSIGN_OR_RETURN(at::Tensor logits, generator_->prefill({prompt}, &cancel));
      std::vector<double> times;
      for (int64_t i = 0; i < steps; ++i) {
        const auto start = std::chrono::steady_clock::now();
        const int32_t token = static_cast<int32_t>(logits.argmax().item<int64_t>());  // waits for the device, too
        AUTOGLM_ASSIGN_OR_RETURN(logits, generator_->step(std::span(&token, 1), &cancel));
        times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
      }
      return times;
    });
  }

 private:
  int64_t scoring_bytes(int64_t tokens) const {
    const auto width = static_cast<int64_t>(c10::elementSize(decoder_.options().compute));
    return decoder_.block_bytes() + tokens * decoder_.config().hidden_size * width;
  }

  Result<std::vector<Group>> embed(const std::vector<Tokens>& sequences, CancelToken& cancel) const {
    std::map<int64_t, Group> by_length;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const auto length = static_cast<int64_t>(sequences[i].size());
      if (length == 0) return invalid_argument(fmt::format("sequence {} is empty: there is nothing to score", i));
      by_length[length].members.push_back(static_cast<int64_t>(i));
    }
    std::vector<Group> groups;
    for (auto& [length, group] : by_length) {
      AUTOGLM_RETURN_IF_ERROR(cancel.check());
      const at::Tensor ids = at::empty({static_cast<int64_t>(group.members.size()), length}, at::kLong);
      auto* out = ids.data_ptr<int64_t>();
      for (const int64_t i : group.members) {
        const Tokens& tokens = sequences[static_cast<size_t>(i)];
        out = std::copy(tokens.begin(), tokens.end(), out);
      }
      group.length = length;
      AUTOGLM_ASSIGN_OR_RETURN(group.hidden, decoder_.embed(ids));
      groups.push_back(std::move(group));
    }
    return groups;
  }

  /// Replaces the hidden states of all groups by those after `layer`.
  Status run_layer(int64_t layer, std::vector<Group>& groups, CancelToken& cancel) const {
    std::optional<Block> loaded;
    if (!generator_) {
      AUTOGLM_ASSIGN_OR_RETURN(loaded, decoder_.load_block(layer, &cancel));
    }
    const Block& block = loaded ? *loaded : generator_->blocks()[static_cast<size_t>(layer)];
    ForwardOptions options;
    options.cancel = &cancel;
    for (Group& group : groups) {
      const Rotary rotary = decoder_.rotary(group.length);
      const auto members = static_cast<int64_t>(group.members.size());
      const int64_t step = std::max<int64_t>(1, options_.tokens_at_once / group.length);
      for (int64_t first = 0; first < members; first += step) {
        const at::Tensor part = group.hidden.narrow(0, first, std::min(step, members - first));
        const at::Tensor after = forward(decoder_.config(), block, rotary, part, options);
        if (!after.defined()) return cancelled();
        part.copy_(after);
      }
    }
    return ok_status();
  }

  Status generate_batch(const std::vector<Tokens>& prompts, std::span<const size_t> batch, int64_t max_new_tokens,
                        const std::unordered_set<int64_t>& ends, std::vector<Tokens>& answers, CancelToken& cancel) {
    std::vector<size_t> live(batch.begin(), batch.end());  // what each row of the generator's batch continues
    std::vector<Tokens> inputs;
    for (const size_t i : live) inputs.push_back(prompts[i]);
    AUTOGLM_ASSIGN_OR_RETURN(at::Tensor logits, generator_->prefill(inputs, &cancel));
    for (int64_t produced = 1;; ++produced) {
      const at::Tensor best = logits.argmax(-1).cpu();
      Tokens next;
      std::vector<int64_t> rows;
      for (size_t row = 0; row < live.size(); ++row) {
        const int64_t token = best.const_data_ptr<int64_t>()[row];
        if (ends.contains(token)) continue;
        answers[live[row]].push_back(static_cast<int32_t>(token));
        next.push_back(static_cast<int32_t>(token));
        rows.push_back(static_cast<int64_t>(row));
      }
      if (rows.empty() || produced == max_new_tokens) return ok_status();
      if (rows.size() < live.size()) {
        AUTOGLM_RETURN_IF_ERROR(generator_->keep(rows));
        std::vector<size_t> left;
        for (const int64_t row : rows) left.push_back(live[static_cast<size_t>(row)]);
        live = std::move(left);
      }
      AUTOGLM_ASSIGN_OR_RETURN(logits, generator_->step(next, &cancel));
    }
  }

  Status ensure_generator(const CancelToken& cancel) {
    if (generator_) return ok_status();
    AUTOGLM_ASSIGN_OR_RETURN(Generator generator, Generator::create(decoder_, options_.max_bytes, &cancel));
    generator_.emplace(std::move(generator));
    decoder_ = generator_->decoder();  // shares the head it keeps
    return ok_status();
  }

  Decoder decoder_;
  TorchScorerOptions options_;
  std::optional<Generator> generator_;  ///< once generation was asked for; then scoring uses its blocks, too
};

}  // namespace

std::unique_ptr<eval::Scorer> make_torch_scorer(const Decoder& decoder, const TorchScorerOptions& options) {
  return std::make_unique<TorchScorer>(decoder, options);
}

}  // namespace autoglm::model
