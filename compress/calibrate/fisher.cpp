#include "compress/calibrate/fisher.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "compress/model/block.h"
#include "compress/tensor/bridge.h"
#include "core/base/progress.h"
#include "core/eval/random.h"

namespace autoglm::calibrate {
namespace {

constexpr double kShrink = 0.1;       // towards equal directions: tokens are few where states are wide
constexpr int64_t kHeadTokens = 256;  // whose logits exist at once
constexpr double kSmallestNorm = 1e-6;

/// Sequences spread evenly over the set, about `tokens` tokens of them.
std::vector<eval::Tokens> spread(const std::vector<eval::Tokens>& calibration, int64_t tokens) {
  int64_t all = 0;
  for (const eval::Tokens& sequence : calibration) all += static_cast<int64_t>(sequence.size());
  const auto sequences = static_cast<int64_t>(calibration.size());
  const int64_t count = all <= tokens ? sequences : std::max<int64_t>(1, sequences * tokens / all);
  std::vector<eval::Tokens> out;
  for (int64_t i = 0, taken = 0; i < count; ++i) {
    const eval::Tokens& next = calibration[static_cast<size_t>(i * sequences / count)];
    taken += static_cast<int64_t>(next.size());
    if (taken > tokens && !out.empty()) break;
    out.push_back(next);
  }
  return out;
}

/// How many that is at most, for plans.
int64_t spread_tokens(int64_t sequences, int64_t length, int64_t tokens) {
  return std::clamp(tokens, length, std::max(length, sequences * length));
}

at::Tensor norm_of(const at::Tensor& states) { return states.norm(2, {-1}, true).clamp_min(kSmallestNorm); }

class Measurement {
 public:
  Measurement(const model::Decoder& source, std::vector<eval::Tokens> sequences, const FisherOptions& options,
              CancelToken& cancel)
      : source_(source),
        sequences_(std::move(sequences)),
        layers_(source.config().num_hidden_layers),
        width_(source.config().hidden_size),
        options_(options),
        cancel_(cancel),
        random_(options.seed) {}

  Result<HiddenStates> run() {
    std::vector<int64_t> lengths;
    for (int64_t layer = 0; layer <= layers_; ++layer) {
      for (const eval::Tokens& sequence : sequences_) lengths.push_back(static_cast<int64_t>(sequence.size()));
    }
    rotary_ = source_.rotary(*std::max_element(lengths.begin(), lengths.end()));
    AUTOGLM_ASSIGN_OR_RETURN(
        states_, HiddenStates::create(lengths, width_, at::kFloat, options_.memory_limit, options_.scratch));
    AUTOGLM_ASSIGN_OR_RETURN(
        matrices_, HiddenStates::create(std::vector<int64_t>(static_cast<size_t>(layers_), width_), width_, at::kFloat,
                                        options_.memory_limit, options_.scratch));
    Progress progress("looking at what blocks change", 2 * layers_);
    for (int64_t layer = 0; layer < layers_; ++layer) {
      progress.update(layer, "");
      AUTOGLM_RETURN_IF_ERROR(forward(layer));
    }
    AUTOGLM_RETURN_IF_ERROR(head());
    for (int64_t layer = layers_; layer-- > 1;) {
      progress.update(2 * layers_ - layer, "");
      AUTOGLM_RETURN_IF_ERROR(back(layer));
    }
    return std::move(matrices_);
  }

 private:
  /// What enters block `layer`, or leaves the last; on the way back, in its place, the gradient there.
  int64_t at(int64_t layer, size_t sequence) const {
    return layer * static_cast<int64_t>(sequences_.size()) + static_cast<int64_t>(sequence);
  }

  Status forward(int64_t layer) {
    const at::NoGradGuard no_grad;
    AUTOGLM_ASSIGN_OR_RETURN(const model::Block block, source_.load_block(layer, &cancel_));
    for (size_t i = 0; i < sequences_.size(); ++i) {
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      if (layer == 0) {
        AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor embedded, source_.embed(sequences_[i]));
        AUTOGLM_RETURN_IF_ERROR(states_.put(at(0, i), embedded));
      }
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor input, states_.get(at(layer, i), 1));
      AUTOGLM_RETURN_IF_ERROR(states_.put(at(layer + 1, i), model::forward(source_.config(), block, rotary_, input)));
    }
    return ok_status();
  }

  /// Draws a token after each by what the model says, and takes the gradient of their log-likelihood.
  Status head() {
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor head, source_.load_weight(source_.stored().head(), at::kFloat));
    const std::string name = source_.layout().find(format::Role::kFinalNorm)->weight_name();
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor norm, tensor::load(source_.checkpoint(), name, at::kFloat));
    at::Tensor sum = at::zeros({width_, width_});
    for (size_t i = 0; i < sequences_.size(); ++i) {
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor output, states_.get(at(layers_, i), 1));
      const at::AutoGradMode with_gradient(true);
      const at::Tensor last = output.detach().requires_grad_(), rows = last.flatten(0, 1);
      for (int64_t first = 0; first < rows.size(0); first += kHeadTokens) {
        AUTOGLM_RETURN_IF_ERROR(cancel_.check());
        const at::Tensor some = rows.narrow(0, first, std::min(kHeadTokens, rows.size(0) - first));
        const at::Tensor x = model::rms_norm(some, norm, source_.config().rms_norm_eps);
        const at::Tensor likelihood = at::log_softmax(at::mm(x, head.t()), -1);
        likelihood.gather(1, draw(likelihood.detach().exp())).sum().backward();
      }
      AUTOGLM_RETURN_IF_ERROR(add(layers_, i, output, last.grad(), sum));
    }
    return finish(layers_, sum);
  }

  /// A token for each row of probabilities, [rows, 1].
  at::Tensor draw(const at::Tensor& probabilities) {
    const at::Tensor upto = probabilities.cumsum(1);
    at::Tensor chance = at::empty({upto.size(0), 1});
    auto* values = chance.mutable_data_ptr<float>();
    for (int64_t i = 0; i < upto.size(0); ++i) {
      values[i] = static_cast<float>(static_cast<double>(random_.next() >> 11) * 0x1p-53);
    }
    const at::Tensor last = upto.select(1, upto.size(1) - 1).unsqueeze(1);
    return at::searchsorted(upto, chance * last).clamp_max(upto.size(1) - 1);
  }

  /// From the gradient of what leaves block `layer` to that of what enters it.
  Status back(int64_t layer) {
    AUTOGLM_ASSIGN_OR_RETURN(const model::Block block, source_.load_block(layer, &cancel_));
    at::Tensor sum = at::zeros({width_, width_});
    for (size_t i = 0; i < sequences_.size(); ++i) {
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor entered, states_.get(at(layer, i), 1));
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor gradient, states_.get(at(layer + 1, i), 1));
      const at::AutoGradMode with_gradient(true);
      const at::Tensor input = entered.detach().requires_grad_();
      model::forward(source_.config(), block, rotary_, input).backward(gradient);
      AUTOGLM_RETURN_IF_ERROR(add(layer, i, entered, input.grad(), sum));
    }
    return finish(layer, sum);
  }

  Status add(int64_t layer, size_t sequence, const at::Tensor& state, const at::Tensor& gradient, at::Tensor& sum) {
    const at::NoGradGuard no_grad;
    const at::Tensor g = (gradient * norm_of(state)).flatten(0, 1);
    sum.addmm_(g.t(), g);
    tokens_ += layer == layers_ ? g.size(0) : 0;
    return states_.put(at(layer, sequence), gradient);
  }

  /// What enters block `layer` is the output of the one before.
  Status finish(int64_t layer, const at::Tensor& sum) {
    const double mean = sum.trace().item<double>() / static_cast<double>(width_);
    if (!std::isfinite(mean)) return bad_input("the model gives NaN or infinity on the calibration text");
    const at::Tensor matrix = (sum * (1 - kShrink) + at::eye(width_) * (kShrink * mean)) / static_cast<double>(tokens_);
    return matrices_.put(layer - 1, matrix.unsqueeze(0));
  }

  const model::Decoder& source_;
  const std::vector<eval::Tokens> sequences_;
  const int64_t layers_, width_;
  const FisherOptions& options_;
  CancelToken& cancel_;
  eval::SplitMix64 random_;
  model::Rotary rotary_;
  HiddenStates states_, matrices_;
  int64_t tokens_ = 0;
};

}  // namespace

Result<Fisher> Fisher::measure(const model::Decoder& source, const std::vector<eval::Tokens>& calibration,
                               const FisherOptions& options, CancelToken& cancel) {
  return tensor::guarded([&]() -> Result<Fisher> {
    Fisher out;
    AUTOGLM_ASSIGN_OR_RETURN(out.matrices_,
                             Measurement(source, spread(calibration, options.tokens), options, cancel).run());
    return out;
  });
}

Result<at::Tensor> Fisher::matrix(int64_t layer) const {
  AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor found, matrices_.get(layer, 1));
  return found.squeeze(0);
}

at::Tensor Fisher::cost(const at::Tensor& matrix, const at::Tensor& got, const at::Tensor& wanted) {
  const at::Tensor change = ((got - wanted) / norm_of(wanted)).flatten(0, -2);
  return (at::mm(change, matrix) * change).sum() / static_cast<double>(2 * change.size(0));
}

int64_t Fisher::bytes(const model::Decoder& source, int64_t sequences, int64_t length, const FisherOptions& options) {
  const format::ModelConfig& config = source.config();
  const int64_t width = config.hidden_size, layers = config.num_hidden_layers;
  const int64_t states = (layers + 1) * spread_tokens(sequences, length, options.tokens) * width * int64_t{4};
  return std::min(states, options.memory_limit) + matrix_bytes(source, options) +
         std::max(source.float_block_bytes() + source.backward_bytes(length),
                  (width + 4 * kHeadTokens) * config.vocab_size * int64_t{4}) +
         3 * width * width * int64_t{4};
}

int64_t Fisher::matrix_bytes(const model::Decoder& source, const FisherOptions& options) {
  const format::ModelConfig& config = source.config();
  return std::min(config.num_hidden_layers * config.hidden_size * config.hidden_size * int64_t{4},
                  options.memory_limit);
}

double Fisher::flops(const model::Decoder& source, int64_t sequences, int64_t length, const FisherOptions& options) {
  const format::ModelConfig& config = source.config();
  const auto width = static_cast<double>(config.hidden_size);
  return static_cast<double>(spread_tokens(sequences, length, options.tokens)) *
         (4 * source.block_flops() + 6 * width * static_cast<double>(config.vocab_size) +
          2 * width * width * static_cast<double>(config.num_hidden_layers));
}

}  // namespace autoglm::calibrate
