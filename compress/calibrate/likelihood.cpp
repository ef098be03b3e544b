#include "compress/calibrate/likelihood.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "compress/tensor/bridge.h"

namespace autoglm::calibrate {
namespace {

constexpr int64_t kHeadRows = 1024;    // of the head at once
constexpr int64_t kHeadTokens = 4096;  // for which they are read again; at least one sequence

int64_t length_of(const eval::Tokens& sequence) { return static_cast<int64_t>(sequence.size()); }

}  // namespace

LikelihoodGradient::LikelihoodGradient(const model::Decoder& source, std::vector<eval::Tokens> sequences, uint64_t seed,
                                       CancelToken& cancel)
    : source_(&source), cancel_(&cancel), sequences_(std::move(sequences)), random_(seed) {}

Result<LikelihoodGradient> LikelihoodGradient::create(const model::Decoder& source, std::vector<eval::Tokens> sequences,
                                                      const LikelihoodOptions& options, CancelToken& cancel) {
  LikelihoodGradient out(source, std::move(sequences), options.seed, cancel);
  std::vector<int64_t> lengths;
  for (int64_t layer = 0; layer <= source.config().num_hidden_layers; ++layer) {
    for (const eval::Tokens& sequence : out.sequences_) lengths.push_back(length_of(sequence));
  }
  if (lengths.empty()) return invalid_argument("the gradient of a likelihood needs text");
  out.rotary_ = source.rotary(*std::max_element(lengths.begin(), lengths.end()));
  AUTOGLM_ASSIGN_OR_RETURN(out.states_, HiddenStates::create(lengths, source.config().hidden_size, at::kFloat,
                                                             options.memory_limit, options.scratch));
  return out;
}

int64_t LikelihoodGradient::at(int64_t layer, size_t sequence) const {
  return layer * static_cast<int64_t>(sequences_.size()) + static_cast<int64_t>(sequence);
}

Result<at::Tensor> LikelihoodGradient::run(const model::Block& block, const at::Tensor& input) const {
  model::ForwardOptions options;
  options.cancel = cancel_;
  const at::Tensor output = model::forward(source_->config(), block, rotary_, input, options);
  AUTOGLM_RETURN_IF_ERROR(cancel_->check());
  return output;
}

Status LikelihoodGradient::forward(int64_t layer) {
  const at::NoGradGuard no_grad;
  AUTOGLM_ASSIGN_OR_RETURN(const model::Block block, source_->load_block(layer, cancel_));
  for (size_t i = 0; i < sequences_.size(); ++i) {
    if (layer == 0) {
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor embedded, source_->embed(sequences_[i]));
      AUTOGLM_RETURN_IF_ERROR(states_.put(at(0, i), embedded));
    }
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor input, states_.get(at(layer, i), 1));
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor output, run(block, input));
    AUTOGLM_RETURN_IF_ERROR(states_.put(at(layer + 1, i), output));
  }
  return ok_status();
}

Status LikelihoodGradient::head(const VisitHead& rows, const Visit& visit) {
  layer_ = source_->config().num_hidden_layers;
  const std::string name = source_->layout().find(format::Role::kFinalNorm)->weight_name();
  AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor norm, tensor::load(source_->checkpoint(), name, at::kFloat));
  for (size_t first = 0, last = 0; first < sequences_.size(); first = last) {
    int64_t tokens = 0;
    while (last < sequences_.size() && (last == first || tokens + length_of(sequences_[last]) <= kHeadTokens)) {
      tokens += length_of(sequences_[last++]);
    }
    AUTOGLM_RETURN_IF_ERROR(head_of(first, last, norm, rows, visit));
  }
  return ok_status();
}

/// The gradient of the drawn tokens' log-likelihood by the logits is one at these less the probabilities.
Status LikelihoodGradient::head_of(size_t first, size_t last, const at::Tensor& norm, const VisitHead& visit_rows,
                                   const Visit& visit) {
  const at::AutoGradMode with_gradient(true);
  std::vector<at::Tensor> states;
  for (size_t i = first; i < last; ++i) {
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor found, states_.get(at(layer_, i), 1));
    states.push_back(found[0]);
  }
  const at::Tensor hidden = at::cat(states).requires_grad_();
  const at::Tensor normalized = model::rms_norm(hidden, norm, source_->config().rms_norm_eps);
  at::Tensor gradient = at::zeros_like(normalized);
  {
    const at::NoGradGuard no_grad;
    const at::Tensor x = normalized.detach();
    at::Tensor total = at::full({x.size(0), 1}, -INFINITY);
    AUTOGLM_RETURN_IF_ERROR(for_head_rows([&](int64_t, const at::Tensor& rows) {
      total = at::logaddexp(total, at::mm(x, rows.t()).logsumexp(-1, true));
      return ok_status();
    }));
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor drawn, draw(x, total));
    AUTOGLM_RETURN_IF_ERROR(for_head_rows([&](int64_t row, const at::Tensor& rows) -> Status {
      at::Tensor wanted = at::mm(x, rows.t()).sub_(total).exp_().neg_();
      const at::Tensor inside = drawn.ge(row).logical_and_(drawn.lt(row + rows.size(0)));
      const at::Tensor tokens = inside.nonzero().view({-1});
      wanted.index_put_({tokens, drawn.index_select(0, tokens) - row}, at::ones({}), /*accumulate=*/true);
      gradient.addmm_(wanted, rows);
      return visit_rows ? visit_rows(rows, wanted, x, first) : ok_status();
    }));
  }
  normalized.backward(gradient);
  const at::NoGradGuard no_grad;
  int64_t row = 0;
  for (size_t i = first; i < last; ++i) {
    const int64_t length = length_of(sequences_[i]);
    const auto part = [&](const at::Tensor& all) { return all.narrow(0, row, length).unsqueeze(0); };
    AUTOGLM_RETURN_IF_ERROR(visit(i, part(hidden.detach()), part(hidden.grad())));
    AUTOGLM_RETURN_IF_ERROR(states_.put(at(layer_, i), part(hidden.grad())));
    row += length;
  }
  return ok_status();
}

/// One token for each position: the first whose cumulated probability exceeds a uniform number.
Result<at::Tensor> LikelihoodGradient::draw(const at::Tensor& x, const at::Tensor& total) {
  at::Tensor uniform = at::empty({x.size(0), 1}, at::kDouble);
  std::generate_n(uniform.mutable_data_ptr<double>(), x.size(0), [&] { return random_.uniform(); });
  at::Tensor drawn = at::zeros({x.size(0)}, at::kLong), before = at::zeros({x.size(0), 1}, at::kDouble);
  AUTOGLM_RETURN_IF_ERROR(for_head_rows([&](int64_t, const at::Tensor& rows) {
    const at::Tensor cumulated = at::mm(x, rows.t()).sub_(total).exp_().to(at::kDouble).cumsum_(1).add_(before);
    drawn += cumulated.le(uniform).sum(1);
    before = cumulated.narrow(1, rows.size(0) - 1, 1).clone();
    return ok_status();
  }));
  return drawn.clamp_max_(source_->stored().head().shape[0] - 1);  // where probabilities add up to less than one
}

Status LikelihoodGradient::for_head_rows(
    const std::function<Status(int64_t first, const at::Tensor& rows)>& body) const {
  const format::ModuleSpec& head = source_->stored().head();
  for (int64_t first = 0; first < head.shape[0]; first += kHeadRows) {
    AUTOGLM_RETURN_IF_ERROR(cancel_->check());
    const int64_t count = std::min(kHeadRows, head.shape[0] - first);
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor rows,
                             tensor::load_rows(source_->checkpoint(), head.weight_name(), first, count, at::kFloat));
    AUTOGLM_RETURN_IF_ERROR(body(first, rows));
  }
  return ok_status();
}

Status LikelihoodGradient::back(int64_t layer, const model::Block& block, const Visit& visit) {
  layer_ = layer;
  for (size_t i = 0; i < sequences_.size(); ++i) {
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor entered, states_.get(at(layer, i), 1));
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor gradient, states_.get(at(layer + 1, i), 1));
    const at::AutoGradMode with_gradient(true);
    const at::Tensor input = entered.detach().requires_grad_();
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor output, run(block, input));
    output.backward(gradient);
    const at::NoGradGuard no_grad;
    AUTOGLM_RETURN_IF_ERROR(visit(i, entered, input.grad()));
    AUTOGLM_RETURN_IF_ERROR(states_.put(at(layer, i), input.grad()));
  }
  return ok_status();
}

Result<at::Tensor> LikelihoodGradient::gradient(size_t sequence) const { return states_.get(at(layer_, sequence), 1); }

int64_t LikelihoodGradient::bytes(const model::Decoder& source, int64_t tokens, int64_t length,
                                  const LikelihoodOptions& options) {
  const format::ModelConfig& config = source.config();
  const int64_t states = (config.num_hidden_layers + 1) * tokens * config.hidden_size * int64_t{4};
  const int64_t at_once = std::max(std::min(tokens, kHeadTokens), length);
  const int64_t rows = std::min(kHeadRows, config.vocab_size);
  const int64_t head = (rows * (6 * at_once + 4 * config.hidden_size) + 5 * at_once * config.hidden_size) * int64_t{4};
  return std::min(states, options.memory_limit) +
         std::max(head, source.float_block_bytes() + source.backward_bytes(length));
}

double LikelihoodGradient::flops(const model::Decoder& source, int64_t tokens) {
  const format::ModelConfig& config = source.config();
  const double head = 2.0 * static_cast<double>(config.hidden_size) * static_cast<double>(config.vocab_size);
  return static_cast<double>(tokens) * (4 * source.block_flops() + 4 * head);
}

}  // namespace autoglm::calibrate
