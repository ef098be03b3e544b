#include "compress/search/sensitivity.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "compress/calibrate/likelihood.h"
#include "compress/pass/plan.h"
#include "compress/search/excerpt.h"
#include "compress/search/groups.h"
#include "compress/tensor/bridge.h"
#include "core/base/progress.h"
#include "core/format/display.h"

namespace autoglm::search {
namespace {

using calibrate::LikelihoodGradient;
using format::Role;
using pass::Decision;

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
    for (int64_t layer = 0; layer < layers; ++layer) {
      progress.update(layer, "forward");
      AUTOGLM_RETURN_IF_ERROR(pass_->forward(layer));
    }
    progress.update(layers, "head");
    AUTOGLM_RETURN_IF_ERROR(pass_->head([&](const at::Tensor& rows, const at::Tensor& gradient, const at::Tensor& x,
                                            size_t first) { return add_head_losses(rows, gradient, x, first); },
                                        [](size_t, const at::Tensor&, const at::Tensor&) { return ok_status(); }));
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
    AUTOGLM_ASSIGN_OR_RETURN(pass_,
                             LikelihoodGradient::create(source_, text_.sequences, {.seed = options_.seed}, cancel_));
    return ok_status();
  }

  /// `gradient` and `x` are of sequences from `first_sequence` on.
  Status add_head_losses(const at::Tensor& rows, const at::Tensor& gradient, const at::Tensor& x,
                         size_t first_sequence) {
    at::Tensor squares = at::zeros_like(rows);
    for (int64_t at = 0; at < x.size(0); ++first_sequence) {
      const auto length = static_cast<int64_t>(text_.sequences[first_sequence].size());
      squares.add_(at::mm(gradient.narrow(0, at, length).t(), x.narrow(0, at, length)).square_());
      at += length;
    }
    for (const Place& place : by_source_[source_.stored().head().name]) {
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
    AUTOGLM_RETURN_IF_ERROR(pass_->back(layer, block, [&](size_t, const at::Tensor&, const at::Tensor&) {
      for (auto& [linear, squares] : watched) {
        at::Tensor& gradient = linear->weight.mutable_grad();
        if (!gradient.defined()) continue;  // an expert that no token reached
        squares.addcmul_(gradient, gradient);
        gradient = at::Tensor();
      }
      return ok_status();
    }));
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
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor gradient, pass_->gradient(i));
      squares.add_(at::zeros_like(rows).index_add_(0, places, gradient[0]).square_());
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
  std::optional<LikelihoodGradient> pass_;
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
  return calibrate::LikelihoodGradient::bytes(source, options.tokens, options.length, {}) +
         3 * source.float_block_bytes();
}

}  // namespace autoglm::search
