#include "compress/calibrate/fisher.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "compress/calibrate/likelihood.h"
#include "compress/model/block.h"
#include "compress/tensor/bridge.h"
#include "core/base/progress.h"

namespace autoglm::calibrate {
namespace {

constexpr double kShrink = 0.1;  // towards equal directions: tokens are few where states are wide
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

LikelihoodOptions likelihood_options(const FisherOptions& options) {
  return {.seed = options.seed, .memory_limit = options.memory_limit, .scratch = options.scratch};
}

at::Tensor norm_of(const at::Tensor& states) { return states.norm(2, {-1}, true).clamp_min(kSmallestNorm); }

class Measurement {
 public:
  Measurement(const model::Decoder& source, const FisherOptions& options, LikelihoodGradient pass, CancelToken& cancel)
      : source_(source),
        layers_(source.config().num_hidden_layers),
        width_(source.config().hidden_size),
        options_(options),
        cancel_(cancel),
        pass_(std::move(pass)) {}

  Result<HiddenStates> run() {
    AUTOGLM_ASSIGN_OR_RETURN(
        matrices_, HiddenStates::create(std::vector<int64_t>(static_cast<size_t>(layers_), width_), width_, at::kFloat,
                                        options_.memory_limit, options_.scratch));
    Progress progress("looking at what blocks change", 2 * layers_);
    for (int64_t layer = 0; layer < layers_; ++layer) {
      progress.update(layer, "");
      AUTOGLM_RETURN_IF_ERROR(pass_.forward(layer));
    }
    AUTOGLM_RETURN_IF_ERROR(sum_up(layers_, [&](const auto& visit) { return pass_.head({}, visit); }));
    for (int64_t layer = layers_; layer-- > 1;) {
      progress.update(2 * layers_ - layer, "");
      AUTOGLM_ASSIGN_OR_RETURN(const model::Block block, source_.load_block(layer, &cancel_));
      AUTOGLM_RETURN_IF_ERROR(sum_up(layer, [&](const auto& visit) { return pass_.back(layer, block, visit); }));
    }
    return std::move(matrices_);
  }

 private:
  /// Over the states that `walk` shows, which enter block `layer`: the output of the one before.
  template <typename Walk>
  Status sum_up(int64_t layer, Walk walk) {
    at::Tensor sum = at::zeros({width_, width_});
    int64_t tokens = 0;
    AUTOGLM_RETURN_IF_ERROR(walk([&](size_t, const at::Tensor& state, const at::Tensor& gradient) {
      const at::Tensor g = (gradient * norm_of(state)).flatten(0, 1);
      sum.addmm_(g.t(), g);
      tokens += g.size(0);
      return ok_status();
    }));
    const double mean = sum.trace().item<double>() / static_cast<double>(width_);
    if (!std::isfinite(mean)) return bad_input("the model gives NaN or infinity on the calibration text");
    const at::Tensor matrix = (sum * (1 - kShrink) + at::eye(width_) * (kShrink * mean)) / static_cast<double>(tokens);
    return matrices_.put(layer - 1, matrix.unsqueeze(0));
  }

  const model::Decoder& source_;
  const int64_t layers_, width_;
  const FisherOptions& options_;
  CancelToken& cancel_;
  LikelihoodGradient pass_;
  HiddenStates matrices_;
};

}  // namespace

Result<Fisher> Fisher::measure(const model::Decoder& source, const std::vector<eval::Tokens>& calibration,
                               const FisherOptions& options, CancelToken& cancel) {
  return tensor::guarded([&]() -> Result<Fisher> {
    AUTOGLM_ASSIGN_OR_RETURN(
        LikelihoodGradient pass,
        LikelihoodGradient::create(source, spread(calibration, options.tokens), likelihood_options(options), cancel));
    Fisher out;
    AUTOGLM_ASSIGN_OR_RETURN(out.matrices_, Measurement(source, options, std::move(pass), cancel).run());
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
  const int64_t tokens = spread_tokens(sequences, length, options.tokens), width = source.config().hidden_size;
  return LikelihoodGradient::bytes(source, tokens, length, likelihood_options(options)) +
         matrix_bytes(source, options) + 3 * width * width * int64_t{4};
}

int64_t Fisher::matrix_bytes(const model::Decoder& source, const FisherOptions& options) {
  const format::ModelConfig& config = source.config();
  return std::min(config.num_hidden_layers * config.hidden_size * config.hidden_size * int64_t{4},
                  options.memory_limit);
}

double Fisher::flops(const model::Decoder& source, int64_t sequences, int64_t length, const FisherOptions& options) {
  const int64_t tokens = spread_tokens(sequences, length, options.tokens), width = source.config().hidden_size;
  return LikelihoodGradient::flops(source, tokens) +
         2.0 * static_cast<double>(tokens * source.config().num_hidden_layers) * static_cast<double>(width * width);
}

}  // namespace autoglm::calibrate
