#include "compress/search/sensitivity.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <set>

#include "compress/calibrate/hidden_states.h"
#include "compress/pass/plan.h"
#include "compress/search/excerpt.h"
#include "compress/search/groups.h"
#include "compress/tensor/bridge.h"
#include "core/base/progress.h"
#include "core/eval/random.h"
#include "core/format/display.h"

namespace autoglm::search {
namespace {

using calibrate::HiddenStates;
using format::Role;
using pass::Decision;

constexpr int64_t kHeadRows = 1024;  // of the head at once

/// The recipe with which everything that is left open is quantized somehow.
pass::Recipe everything_open(pass::Recipe recipe) {
  const pass::Scheme any = *pass::Scheme::parse("int8");
  recipe.scheme = any;
  recipe.method = "rtn";
  if (!recipe.embedding) recipe.embedding = any;
  if (!recipe.head) recipe.head = any;
  return recipe;
}

class Estimator {
 public:
  Estimator(const model::Decoder& source, const pass::Registry& registry, const SensitivityOptions& options,
            CancelToken& cancel)
      : source_(source), registry_(registry), options_(options), cancel_(cancel) {}

  Result<Sensitivity> run(const pass::Recipe& recipe, const std::vector<eval::Tokens>& calibration) {
    AUTOGLM_RETURN_IF_ERROR(prepare(recipe, calibration));
    const int64_t layers = source_.config().num_hidden_layers;
    Progress progress("measuring sensitivity", 2 * layers + 2);
    progress.update(0, "forward");
    AUTOGLM_RETURN_IF_ERROR(run_forward(progress));
    progress.update(layers, "head");
    AUTOGLM_RETURN_IF_ERROR(run_head());
    for (int64_t layer = layers; layer-- > 0;) {
      progress.update(2 * layers - layer, fmt::format("layer {}", layer + 1));
      AUTOGLM_RETURN_IF_ERROR(run_block(layer));
    }
    AUTOGLM_RETURN_IF_ERROR(run_embedding());
    return finish();
  }

 private:
  Status prepare(const pass::Recipe& recipe, const std::vector<eval::Tokens>& calibration) {
    AUTOGLM_ASSIGN_OR_RETURN(rounding_, registry_.make("rtn", {}));
    AUTOGLM_ASSIGN_OR_RETURN(resolved_, pass::resolve(everything_open(recipe), source_.config(), source_.layout(),
                                                      &source_.checkpoint(), registry_, true));
    std::vector<pass::Scheme> schemes;
    for (const std::string& word : options_.schemes) {
      AUTOGLM_ASSIGN_OR_RETURN(pass::Scheme scheme, pass::Scheme::parse(word));
      schemes.push_back(std::move(scheme));
    }
    AUTOGLM_ASSIGN_OR_RETURN(groups_, group_decisions(recipe, resolved_, schemes, source_.checkpoint()));
    if (groups_.empty()) return invalid_argument("the recipe leaves no module whose format could be chosen");
    for (GroupedDecisions& grouped : groups_) {
      for (const Decision* decision : grouped.decisions)
        by_source_[decision->source.name].push_back({decision, &grouped});
    }
    text_ = Excerpt::of(calibration, options_.tokens, options_.length);
    if (text_.sequences.empty()) return invalid_argument("choosing formats needs calibration text");
    const std::vector<int64_t> lengths = text_.lengths();
    rotary_ = source_.rotary(*std::max_element(lengths.begin(), lengths.end()));
    for (int64_t layer = 0; layer <= source_.config().num_hidden_layers; ++layer) {
      AUTOGLM_ASSIGN_OR_RETURN(HiddenStates states,
                               HiddenStates::create(lengths, source_.config().hidden_size, at::kFloat, INT64_MAX, ""));
      states_.push_back(std::move(states));
    }
    return ok_status();
  }

  Status run_forward(Progress& progress) {
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < text_.sequences.size(); ++i) {
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor embedded, source_.embed(text_.sequences[i]));
      AUTOGLM_RETURN_IF_ERROR(states_[0].put(static_cast<int64_t>(i), embedded));
    }
    for (int64_t layer = 0; layer < source_.config().num_hidden_layers; ++layer) {
      progress.update(layer, "forward");
      AUTOGLM_ASSIGN_OR_RETURN(const model::Block block, source_.load_block(layer, &cancel_));
      for (int64_t i = 0; i < static_cast<int64_t>(text_.sequences.size()); ++i) {
        AUTOGLM_RETURN_IF_ERROR(cancel_.check());
        AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor input, states_[static_cast<size_t>(layer)].get(i, 1));
        const at::Tensor output = model::forward(source_.config(), block, rotary_, input);
        AUTOGLM_RETURN_IF_ERROR(states_[static_cast<size_t>(layer) + 1].put(i, output));
      }
    }
    return ok_status();
  }

  /// Draws a token at every position from the model's own prediction and takes the gradient of its log-likelihood,
  /// rows of the head at a time.
  Status run_head() {
    const format::ModuleSpec& head = source_.stored().head();
    const at::AutoGradMode with_gradient(true);
    std::vector<at::Tensor> last;
    for (size_t i = 0; i < text_.sequences.size(); ++i) {
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor states, states_.back().get(static_cast<int64_t>(i), 1));
      last.push_back(states[0]);
    }
    states_.pop_back();
    const at::Tensor hidden = at::cat(last).requires_grad_();
    AUTOGLM_ASSIGN_OR_RETURN(
        const at::Tensor norm,
        tensor::load(source_.checkpoint(), source_.layout().find(Role::kFinalNorm)->weight_name(), at::kFloat));
    const at::Tensor normalized = model::rms_norm(hidden, norm, source_.config().rms_norm_eps);
    at::Tensor gradient = at::zeros_like(normalized);
    {
      const at::NoGradGuard no_grad;
      const at::Tensor x = normalized.detach();
      at::Tensor total = at::full({text_.tokens, 1}, -INFINITY);
      AUTOGLM_RETURN_IF_ERROR(for_head_rows(head, [&](int64_t, const at::Tensor& rows) {
        total = at::logaddexp(total, at::mm(x, rows.t()).logsumexp(-1, true));
        return ok_status();
      }));
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor drawn, draw(head, x, total));
      AUTOGLM_RETURN_IF_ERROR(for_head_rows(head, [&](int64_t first, const at::Tensor& rows) {
        at::Tensor wanted = at::mm(x, rows.t()).sub_(total).exp_().neg_();
        const at::Tensor inside = drawn.ge(first).logical_and_(drawn.lt(first + rows.size(0)));
        const at::Tensor tokens = inside.nonzero().view({-1});
        wanted.index_put_({tokens, drawn.index_select(0, tokens) - first}, at::ones({}), /*accumulate=*/true);
        gradient.addmm_(wanted, rows);
        return add_head_losses(head, rows, wanted, x);
      }));
    }
    normalized.backward(gradient);
    int64_t first = 0;
    for (const eval::Tokens& sequence : text_.sequences) {
      const auto length = static_cast<int64_t>(sequence.size());
      gradients_.push_back(hidden.grad().narrow(0, first, length).unsqueeze(0).clone());
      first += length;
    }
    return ok_status();
  }

  Status for_head_rows(const format::ModuleSpec& head,
                       const std::function<Status(int64_t first, const at::Tensor& rows)>& body) {
    for (int64_t first = 0; first < head.shape[0]; first += kHeadRows) {
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      const int64_t count = std::min(kHeadRows, head.shape[0] - first);
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor rows,
                               tensor::load_rows(source_.checkpoint(), head.weight_name(), first, count, at::kFloat));
      AUTOGLM_RETURN_IF_ERROR(body(first, rows));
    }
    return ok_status();
  }

  /// One token for each position: the first whose cumulated probability exceeds a uniform number.
  Result<at::Tensor> draw(const format::ModuleSpec& head, const at::Tensor& x, const at::Tensor& total) {
    eval::SplitMix64 random(options_.seed);
    at::Tensor uniform = at::empty({text_.tokens, 1}, at::kDouble);
    for (int64_t i = 0; i < text_.tokens; ++i) {
      uniform.mutable_data_ptr<double>()[i] = static_cast<double>(random.next() >> 11) * 0x1p-53;
    }
    at::Tensor drawn = at::zeros({text_.tokens}, at::kLong), before = at::zeros({text_.tokens, 1}, at::kDouble);
    AUTOGLM_RETURN_IF_ERROR(for_head_rows(head, [&](int64_t, const at::Tensor& rows) {
      const at::Tensor cumulated = at::mm(x, rows.t()).sub_(total).exp_().to(at::kDouble).cumsum_(1).add_(before);
      drawn += cumulated.le(uniform).sum(1);
      before = cumulated.narrow(1, rows.size(0) - 1, 1).clone();
      return ok_status();
    }));
    return drawn.clamp_max_(head.shape[0] - 1);  // where the probabilities add up to a little less than one
  }

  Status add_head_losses(const format::ModuleSpec& head, const at::Tensor& rows, const at::Tensor& wanted,
                         const at::Tensor& x) {
    at::Tensor squares = at::zeros_like(rows);
    int64_t at = 0;
    for (const eval::Tokens& sequence : text_.sequences) {
      const auto length = static_cast<int64_t>(sequence.size());
      squares.add_(at::mm(wanted.narrow(0, at, length).t(), x.narrow(0, at, length)).square_());
      at += length;
    }
    for (const Place& place : by_source_[head.name]) {
      if (place.decision->module.role != Role::kHead) continue;
      AUTOGLM_RETURN_IF_ERROR(add_losses(place, rows, squares));
    }
    return ok_status();
  }

  Status run_block(int64_t layer) {
    AUTOGLM_ASSIGN_OR_RETURN(model::Block block, source_.load_block(layer, &cancel_));
    std::vector<std::pair<model::Linear*, at::Tensor>> watched;
    for (const format::Stage stage : format::kStages) {
      for (model::Linear* linear : block.linears(stage)) {
        if (!by_source_.contains(linear->spec.name)) continue;
        linear->weight.requires_grad_();
        watched.emplace_back(linear, at::zeros_like(linear->weight));
      }
    }
    for (size_t i = 0; i < text_.sequences.size(); ++i) {
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      const at::AutoGradMode with_gradient(true);
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor states, states_.back().get(static_cast<int64_t>(i), 1));
      const at::Tensor input = states.detach().requires_grad_();
      model::forward(source_.config(), block, rotary_, input).backward(gradients_[i]);
      gradients_[i] = input.grad();
      const at::NoGradGuard no_grad;
      for (auto& [linear, squares] : watched) {
        at::Tensor& gradient = linear->weight.mutable_grad();
        if (!gradient.defined()) continue;  // an expert that no token reached
        squares.addcmul_(gradient, gradient);
        gradient = at::Tensor();
      }
    }
    states_.pop_back();
    const at::NoGradGuard no_grad;
    for (auto& [linear, squares] : watched) {
      for (const Place& place : by_source_[linear->spec.name]) {
        const int64_t first = place.decision->first_row, count = place.decision->module.shape[0];
        AUTOGLM_RETURN_IF_ERROR(
            add_losses(place, linear->weight.detach().narrow(0, first, count), squares.narrow(0, first, count)));
      }
    }
    return ok_status();
  }

  /// By the rows that the sequences look up; the others do not count.
  Status run_embedding() {
    const format::ModuleSpec& table = source_.stored().embedding();
    const at::NoGradGuard no_grad;
    std::set<int32_t> seen;
    for (const eval::Tokens& sequence : text_.sequences) seen.insert(sequence.begin(), sequence.end());
    std::map<int32_t, int64_t> row_of;
    at::Tensor rows = at::empty({static_cast<int64_t>(seen.size()), table.shape[1]});
    for (const int32_t token : seen) {
      const auto row = static_cast<int64_t>(row_of.size());
      row_of[token] = row;
      AUTOGLM_RETURN_IF_ERROR(
          tensor::load_rows_into(source_.checkpoint(), table.weight_name(), token, rows.narrow(0, row, 1)));
    }
    at::Tensor squares = at::zeros_like(rows);
    for (size_t i = 0; i < text_.sequences.size(); ++i) {
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      at::Tensor places = at::empty({static_cast<int64_t>(text_.sequences[i].size())}, at::kLong);
      for (size_t t = 0; t < text_.sequences[i].size(); ++t) {
        places.mutable_data_ptr<int64_t>()[t] = row_of.at(text_.sequences[i][t]);
      }
      squares.add_(at::zeros_like(rows).index_add_(0, places, gradients_[i][0]).square_());
    }
    for (const Place& place : by_source_[table.name]) {
      if (place.decision->module.role == Role::kEmbedding) AUTOGLM_RETURN_IF_ERROR(add_losses(place, rows, squares));
    }
    return ok_status();
  }

  struct Place {
    const Decision* decision = nullptr;
    GroupedDecisions* grouped = nullptr;
  };

  /// Rounds `weight` (whole rows of the decision's) in every format and adds what the error costs.
  Status add_losses(const Place& place, const at::Tensor& weight, const at::Tensor& squares) {
    for (size_t i = 0; i < place.grouped->schemes.size(); ++i) {
      pass::Target target;
      target.name = place.decision->module.name;
      target.rows = weight.size(0);
      target.cols = weight.size(1);
      target.scheme = place.grouped->schemes[i];
      target.scale_dtype = place.decision->scale_dtype;
      target.read = [&](int64_t first, int64_t count) -> Result<at::Tensor> {
        return weight.narrow(0, first, count).contiguous();
      };
      std::vector<pass::Target*> stage = {&target};
      AUTOGLM_RETURN_IF_ERROR(rounding_->run(stage, cancel_));
      const auto& result = std::get<format::QuantizedWeight>(target.result);
      const at::Tensor error = tensor::dequantize(result, at::kFloat).sub_(weight);
      const double sum = error.square_().mul_(squares).sum().item<double>();
      if (!std::isfinite(sum)) {
        return bad_input(fmt::format("{}: the gradient of its weights is NaN or infinite", target.name));
      }
      place.grouped->group.candidates[i].loss += sum / (2 * static_cast<double>(text_.tokens));
    }
    return ok_status();
  }

  Sensitivity finish() {
    Sensitivity out;
    out.tokens = text_.tokens;
    std::set<const Decision*> chosen;
    for (GroupedDecisions& grouped : groups_) {
      chosen.insert(grouped.decisions.begin(), grouped.decisions.end());
      out.groups.push_back(std::move(grouped.group));
    }
    for (const Decision& decision : resolved_.decisions) {
      if (chosen.contains(&decision)) continue;
      out.other_bytes += pass::written_bytes(decision, &source_.checkpoint());
      out.other_tensors += 5;  // at most: a quantized one with a bias
    }
    for (const format::ModuleSpec& module : source_.layout().modules()) {
      const int64_t weights = format::element_count(module.shape).value_or(0);
      out.parameters += weights + (module.has_bias ? module.shape.front() : 0);
    }
    for (const std::string& name : resolved_.others) {
      const format::TensorInfo* tensor = source_.checkpoint().find(name);
      out.other_bytes += tensor->nbytes;
      ++out.other_tensors;
      out.parameters += format::element_count(tensor->shape).value_or(0);
    }
    return out;
  }

  const model::Decoder& source_;
  const pass::Registry& registry_;
  const SensitivityOptions& options_;
  CancelToken& cancel_;

  std::unique_ptr<pass::Pass> rounding_;
  pass::Resolved resolved_;
  std::vector<GroupedDecisions> groups_;
  std::map<std::string, std::vector<Place>> by_source_;  ///< by the name of the source's module
  Excerpt text_;
  model::Rotary rotary_;
  std::vector<HiddenStates> states_;   ///< inputs of each block and of the final norm; the last are dropped when used
  std::vector<at::Tensor> gradients_;  ///< of each sequence's states, at the layer that is at hand
};

bool is_sound(const Group& group) {
  const auto can_be_chosen = [](const Candidate& candidate) {
    const bool known = candidate.scheme == "keep" || pass::Scheme::parse(candidate.scheme).ok();
    return known && candidate.bytes >= 0 && candidate.bytes < (int64_t{1} << 50) && candidate.loss >= 0 &&
           std::isfinite(candidate.loss);
  };
  return !group.modules.empty() && group.parameters > 0 && !group.candidates.empty() &&
         group.candidates.back().scheme == "keep" &&
         std::all_of(group.candidates.begin(), group.candidates.end(), can_be_chosen);
}

}  // namespace

nlohmann::ordered_json Sensitivity::to_json() const {
  nlohmann::ordered_json out;
  out["fingerprint"] = fingerprint;
  out["tokens"] = tokens;
  out["other_bytes"] = other_bytes;
  out["other_tensors"] = other_tensors;
  out["parameters"] = parameters;
  out["groups"] = nlohmann::ordered_json::array();
  for (const Group& group : groups) {
    nlohmann::ordered_json item;
    item["name"] = group.name;
    item["kind"] = group.kind;
    item["modules"] = group.modules;
    item["parameters"] = group.parameters;
    item["formats"] = nlohmann::ordered_json::array();
    for (const Candidate& candidate : group.candidates) {
      item["formats"].push_back({{"scheme", candidate.scheme}, {"bytes", candidate.bytes}, {"loss", candidate.loss}});
    }
    out["groups"].push_back(std::move(item));
  }
  return out;
}

Result<Sensitivity> Sensitivity::from_json(const nlohmann::json& json) {
  try {
    Sensitivity out;
    out.fingerprint = json.at("fingerprint").get<std::string>();
    out.tokens = json.at("tokens").get<int64_t>();
    out.other_bytes = json.at("other_bytes").get<int64_t>();
    out.other_tensors = json.at("other_tensors").get<int64_t>();
    out.parameters = json.at("parameters").get<int64_t>();
    for (const auto& item : json.at("groups")) {
      Group group;
      group.name = item.at("name").get<std::string>();
      group.kind = item.at("kind").get<std::string>();
      group.modules = item.at("modules").get<std::vector<std::string>>();
      group.parameters = item.at("parameters").get<int64_t>();
      for (const auto& format : item.at("formats")) {
        group.candidates.push_back({format.at("scheme").get<std::string>(), format.at("bytes").get<int64_t>(),
                                    format.at("loss").get<double>()});
      }
      if (!is_sound(group))
        return bad_input(fmt::format("the scores of {} make no sense", format::display(group.name)));
      out.groups.push_back(std::move(group));
    }
    if (out.groups.empty() || out.other_bytes < 0 || out.parameters <= 0)
      return bad_input("these are no sensitivities");
    return out;
  } catch (const nlohmann::json::exception& error) {
    return bad_input(fmt::format("these are no sensitivities: {}", error.what()));
  }
}

std::vector<std::string> all_schemes() {
  std::vector<std::string> words;
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    for (const char* scope : {"g32", "g64", "g128", "channel"}) {
      for (const char* symmetry : {"", "-asym"}) words.push_back(fmt::format("int{}-{}{}", bits, scope, symmetry));
    }
  }
  return words;
}

Result<Sensitivity> measure_sensitivity(const model::Decoder& source, const pass::Recipe& recipe,
                                        const pass::Registry& registry, const std::vector<eval::Tokens>& calibration,
                                        const SensitivityOptions& options, CancelToken& cancel) {
  return tensor::guarded([&] { return Estimator(source, registry, options, cancel).run(recipe, calibration); });
}

int64_t sensitivity_bytes(const model::Decoder& source, const SensitivityOptions& options) {
  const format::ModelConfig& config = source.config();
  const int64_t states = options.tokens * config.hidden_size * int64_t{4};
  const int64_t head = kHeadRows * (6 * options.tokens + 4 * config.hidden_size) * int64_t{4};
  const int64_t block = 4 * source.float_block_bytes() + source.backward_bytes(options.length);
  return (config.num_hidden_layers + 4) * states + std::max(head, block);
}

}  // namespace autoglm::search
