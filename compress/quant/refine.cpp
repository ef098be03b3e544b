#include "compress/quant/refine.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>

#include "compress/quant/schedule.h"
#include "compress/quant/trained.h"
#include "compress/tensor/bridge.h"
#include "core/base/progress.h"

namespace autoglm::quant {
namespace {

using format::Role;

constexpr int64_t kHeadTokens = 256;  // whose logits exist at once

class Refinement {
 public:
  Refinement(const model::Decoder& source, const model::Decoder& staged, const std::vector<eval::Tokens>& calibration,
             const RefineOptions& options, CancelToken& cancel)
      : source_(source),
        staged_(staged),
        calibration_(calibration),
        options_(options),
        cancel_(cancel),
        split_(calibration, options.seed) {}

  Result<Refined> run() {
    AUTOGLM_RETURN_IF_ERROR(prepare());
    Refined out;
    AUTOGLM_ASSIGN_OR_RETURN(out.kl_before, divergence());
    batches_ = split_.batches(options_.batch_tokens, 0);
    const auto per_epoch = static_cast<int64_t>(batches_.size());
    const int64_t steps = options_.epochs * per_epoch;
    Progress progress("refining", steps);
    for (out.steps = 0; out.steps < steps; ++out.steps) {
      progress.update(out.steps, "");
      if (out.steps % per_epoch == 0) batches_ = split_.batches(options_.batch_tokens, out.steps / per_epoch);
      AUTOGLM_RETURN_IF_ERROR(step(batches_[static_cast<size_t>(out.steps % per_epoch)],
                                   cosine((static_cast<double>(out.steps) + 0.5) / static_cast<double>(steps))));
    }
    AUTOGLM_ASSIGN_OR_RETURN(out.kl_after, divergence());
    out.kept = out.kl_after < out.kl_before;  // false for NaN too
    if (out.kept) AUTOGLM_RETURN_IF_ERROR(write());
    return out;
  }

 private:
  using Batch = std::vector<size_t>;  // sequences of one length

  Status prepare() {
    if (calibration_.size() < 2) return invalid_argument("refinement needs at least two calibration sequences");
    size_t longest = 0;
    for (const eval::Tokens& sequence : calibration_) longest = std::max(longest, sequence.size());
    rotary_ = staged_.rotary(static_cast<int64_t>(longest));

    AUTOGLM_RETURN_IF_ERROR(load_blocks());
    AUTOGLM_RETURN_IF_ERROR(load_heads());
    return run_source();
  }

  Status load_blocks() {
    for (int64_t layer = 0; layer < staged_.config().num_hidden_layers; ++layer) {
      AUTOGLM_ASSIGN_OR_RETURN(TrainedBlock block, TrainedBlock::load(staged_, layer, nullptr, cancel_));
      blocks_.push_back(std::move(block));
    }
    const bool any = std::any_of(blocks_.begin(), blocks_.end(), [](const auto& block) { return block.quantized(); });
    return any ? ok_status() : invalid_argument("refinement: no block has quantized weights to be trained");
  }

  Status load_heads() {
    AUTOGLM_ASSIGN_OR_RETURN(source_head_, source_.load_weight(source_.stored().head(), at::kFloat));
    const format::ModuleSpec& head = staged_.stored().head();
    AUTOGLM_ASSIGN_OR_RETURN(head_input_, staged_.stored().input_quant(head));
    const bool quantized = staged_.stored().scheme_of(head) != nullptr && head.role == Role::kHead;
    if (quantized) {
      AUTOGLM_ASSIGN_OR_RETURN(head_, TrainedMatrix::load(staged_, head));
    } else {
      AUTOGLM_ASSIGN_OR_RETURN(kept_head_, staged_.load_weight(head, at::kFloat));
    }
    AUTOGLM_ASSIGN_OR_RETURN(
        norm_, TrainedVector::load(staged_.checkpoint(), staged_.layout().find(Role::kFinalNorm)->weight_name()));
    return ok_status();
  }

  /// The source's head input for every sequence, block by block.
  Status run_source() {
    const at::NoGradGuard no_grad;
    for (const eval::Tokens& sequence : calibration_) {
      AUTOGLM_ASSIGN_OR_RETURN(at::Tensor states, source_.embed(sequence));
      source_states_.push_back(states);
    }
    for (int64_t layer = 0; layer < source_.config().num_hidden_layers; ++layer) {
      AUTOGLM_ASSIGN_OR_RETURN(const model::Block block, source_.load_block(layer, &cancel_));
      for (at::Tensor& states : source_states_) {
        AUTOGLM_RETURN_IF_ERROR(cancel_.check());
        states = model::forward(source_.config(), block, rotary_, states);
      }
    }
    for (at::Tensor& states : source_states_) {
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor x, source_.head_input(states.flatten(0, 1)));
      states = x.to(at::kFloat);
    }
    return ok_status();
  }

  Result<std::vector<at::Tensor>> forward(const Batch& batch) {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> rows;
    for (const size_t i : batch) {
      AUTOGLM_ASSIGN_OR_RETURN(at::Tensor states, staged_.embed(calibration_[i]));
      rows.push_back(states);
    }
    std::vector<at::Tensor> states = {at::cat(rows)};
    for (const TrainedBlock& block : blocks_) {
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      states.push_back(model::forward(staged_.config(), block.build(), rotary_, states.back()));
    }
    return states;
  }

  /// Mean over tokens of KL(source || compressed) from the last states; takes its gradient where that is on.
  double loss(const Batch& batch, const at::Tensor& last, bool with_gradient) {
    std::vector<at::Tensor> expected;
    for (const size_t i : batch) expected.push_back(source_states_[i]);
    const at::Tensor wanted = at::cat(expected), hidden = last.flatten(0, 1);
    // Made once for all pieces, which add up their gradients of it.
    const at::Tensor trained = head_ ? head_->value() : at::Tensor();
    const at::Tensor matrix = head_ ? trained.detach().requires_grad_(with_gradient) : kept_head_;
    double sum = 0;
    for (int64_t first = 0; first < hidden.size(0); first += kHeadTokens) {
      const int64_t count = std::min(kHeadTokens, hidden.size(0) - first);
      const at::Tensor target = at::log_softmax(at::mm(wanted.narrow(0, first, count), source_head_.t()), -1);
      at::Tensor x =
          model::rms_norm(hidden.narrow(0, first, count).to(at::kFloat), norm_.value(), staged_.config().rms_norm_eps);
      if (head_input_) x = model::fake_quantize(x, *head_input_);
      const at::Tensor got = at::log_softmax(at::mm(x, matrix.t()), -1);
      const at::Tensor kl = (target.exp() * (target - got)).sum();
      if (with_gradient) (kl / hidden.size(0)).backward();
      sum += kl.item<double>();
    }
    if (head_ && with_gradient) trained.backward(matrix.grad());
    return sum / static_cast<double>(hidden.size(0));
  }

  Status step(const Batch& batch, double share) {
    AUTOGLM_ASSIGN_OR_RETURN(const std::vector<at::Tensor> states, forward(batch));
    const at::AutoGradMode with_gradient(true);
    at::Tensor last = states.back().detach().requires_grad_();
    const double kl = loss(batch, last, true);
    if (!std::isfinite(kl)) return bad_input("refinement: the compressed model gives NaN or infinity");
    at::Tensor gradient = last.grad();
    const Rates rates{.values = options_.rate * share};
    ++updates_;
    for (size_t layer = blocks_.size(); layer-- > 0;) {
      AUTOGLM_RETURN_IF_ERROR(blocks_[layer].descend([&](const model::Block& block) -> Status {
        std::vector<at::Tensor> gradients;
        for (int64_t i = 0; i < gradient.size(0); ++i) {  // no more than one sequence is held for the way back
          AUTOGLM_RETURN_IF_ERROR(cancel_.check());
          at::Tensor input = states[layer].narrow(0, i, 1).detach().requires_grad_();
          model::forward(staged_.config(), block, rotary_, input).backward(gradient.narrow(0, i, 1));
          gradients.push_back(input.grad());
        }
        gradient = at::cat(gradients);
        return ok_status();
      }));
      const at::NoGradGuard no_grad;
      blocks_[layer].update(rates, updates_);
    }
    const at::NoGradGuard no_grad;
    norm_.update(rates.values, updates_);
    if (head_) head_->update(rates, updates_);
    return ok_status();
  }

  /// On the sequences that are held back.
  Result<double> divergence() {
    double sum = 0;
    for (const size_t i : split_.held_back()) {
      AUTOGLM_ASSIGN_OR_RETURN(const std::vector<at::Tensor> states, forward({i}));
      const at::NoGradGuard no_grad;
      sum += loss({i}, states.back(), false);
    }
    return sum / static_cast<double>(split_.held_back().size());
  }

  Status write() {
    for (const TrainedBlock& block : blocks_) {
      AUTOGLM_RETURN_IF_ERROR(write_over(staged_.checkpoint(), block.stored()));
    }
    if (head_) AUTOGLM_RETURN_IF_ERROR(write_over(staged_.checkpoint(), head_->stored()));
    return write_over(staged_.checkpoint(), {norm_.stored()});
  }

  const model::Decoder& source_;
  const model::Decoder& staged_;
  const std::vector<eval::Tokens>& calibration_;
  const RefineOptions& options_;
  CancelToken& cancel_;

  TrainingSplit split_;
  std::vector<Batch> batches_;
  model::Rotary rotary_;
  std::vector<TrainedBlock> blocks_;
  std::optional<TrainedMatrix> head_;  ///< of the compressed model, where it is quantized
  std::optional<format::InputQuant> head_input_;
  at::Tensor kept_head_, source_head_;
  TrainedVector norm_;
  std::vector<at::Tensor> source_states_;  ///< the head's input of each sequence, [tokens, hidden]
  int64_t updates_ = 0;
};

}  // namespace

Result<Refined> refine(const model::Decoder& source, const model::Decoder& staged,
                       const std::vector<eval::Tokens>& calibration, const RefineOptions& options,
                       CancelToken& cancel) {
  return tensor::guarded([&] { return Refinement(source, staged, calibration, options, cancel).run(); });
}

int64_t refine_bytes(const model::Decoder& source, int64_t sequences, int64_t length, const RefineOptions& options) {
  const format::ModelConfig& config = source.config();
  const int64_t block = source.float_block_bytes(), layers = config.num_hidden_layers;
  const int64_t batch = std::max(options.batch_tokens, length);
  const int64_t states = (batch * (layers + 1) + sequences * length) * config.hidden_size * int64_t{4};
  const int64_t heads = 2 * config.vocab_size * config.hidden_size * int64_t{4};
  const int64_t logits = 6 * kHeadTokens * config.vocab_size * int64_t{4};
  const int64_t trained = layers * block / 2;  // of fp32: integers a quarter; scales, their gradients and Adam's sums
  return trained + 3 * block + states + heads + logits + source.backward_bytes(length);
}

double refine_flops(const model::Decoder& source, int64_t sequences, int64_t length, const RefineOptions& options) {
  const format::ModelConfig& config = source.config();
  const double head = 2.0 * static_cast<double>(config.vocab_size * config.hidden_size);
  const auto tokens = static_cast<double>(sequences * length);
  return tokens * (source.block_flops() + static_cast<double>(options.epochs) * 4 * (source.block_flops() + head));
}

}  // namespace autoglm::quant
