#include "compress/search/swaps.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "compress/pass/pipeline.h"
#include "compress/search/excerpt.h"
#include "compress/tensor/bridge.h"
#include "core/base/progress.h"
#include "core/format/checkpoint_writer.h"

namespace autoglm::search {
namespace {

constexpr int64_t kLogitRows = 256;  // positions whose logits are held at once

/// A model rounded to nearest, in a folder that vanishes with it.
struct Rounded {
  format::CheckpointWriter writer;
  model::Decoder decoder;
};

/// What of a recipe decides the stored form, with no method that needs text.
pass::Recipe rounding_alone(pass::Recipe recipe) {
  recipe.method = "rtn";
  recipe.repair = 0;
  const auto calibrate_nothing = [](std::optional<pass::Scheme>& scheme) {
    if (scheme && scheme->activations) scheme->activations->dynamic = true;
  };
  for (pass::Override& item : recipe.overrides) {
    item.method = "rtn";
    calibrate_nothing(item.scheme);
  }
  calibrate_nothing(recipe.embedding);
  calibrate_nothing(recipe.head);
  return recipe;
}

class Swapper {
 public:
  Swapper(const model::Decoder& source, const pass::Recipe& recipe, const pass::Registry& registry,
          const Sensitivity& sensitivity, Profile profile, const SwapOptions& options, CancelToken& cancel)
      : source_(source),
        recipe_(recipe),
        registry_(registry),
        sensitivity_(sensitivity),
        profile_(profile),
        options_(options),
        cancel_(cancel) {}

  Result<Swapped> run(const Allocation& start, int64_t bytes, const std::vector<eval::Tokens>& calibration) {
    AUTOGLM_RETURN_IF_ERROR(read(calibration));
    const auto groups = static_cast<int64_t>(sensitivity_.groups.size());
    Progress progress("measuring swaps", options_.rounds * groups);
    Swapped out{.allocation = start};
    AUTOGLM_ASSIGN_OR_RETURN(out.kl_before, settle(start));
    out.kl_after = out.kl_before;
    for (int64_t round = 0; round < options_.rounds; ++round) {
      const std::array<Allocation, 2> sides = {aside(out.allocation, -1), aside(out.allocation, 1)};
      std::array<std::vector<double>, 2> losses;
      for (size_t side = 0; side < 2; ++side) {
        AUTOGLM_ASSIGN_OR_RETURN(const Rounded other, round_to(sides[side]));
        for (size_t group = 0; group < sensitivity_.groups.size(); ++group) {
          progress.update(round * groups + static_cast<int64_t>(side * sensitivity_.groups.size() + group) / 2,
                          sensitivity_.groups[group].name);
          double loss = 0;
          if (sides[side].choices[group] != out.allocation.choices[group]) {
            AUTOGLM_ASSIGN_OR_RETURN(loss, divergence(group, other.decoder));
            loss -= out.kl_after;
          }
          losses[side].push_back(loss);
        }
      }
      AUTOGLM_ASSIGN_OR_RETURN(const Allocation better, solve(out.allocation, sides, losses, bytes));
      if (better.choices == out.allocation.choices) break;
      AUTOGLM_ASSIGN_OR_RETURN(const double measured, settle(better));
      if (!(measured < out.kl_after)) break;
      out.allocation = better;
      out.kl_after = measured;
    }
    out.measurements = measurements_;
    return out;
  }

 private:
  Status read(const std::vector<eval::Tokens>& calibration) {
    text_ = Excerpt::of(calibration, options_.tokens, options_.length);
    if (text_.sequences.empty()) return invalid_argument("measuring swaps needs calibration text");
    rotary_ = source_.rotary(options_.length);
    AUTOGLM_ASSIGN_OR_RETURN(std::vector<at::Tensor> states, embed(source_));
    for (int64_t layer = 0; layer < source_.config().num_hidden_layers; ++layer) {
      AUTOGLM_ASSIGN_OR_RETURN(const model::Block block, source_.load_block(layer, &cancel_));
      AUTOGLM_RETURN_IF_ERROR(carry(source_.config(), block, states));
    }
    wanted_ = std::move(states);
    return ok_status();
  }

  Result<std::vector<at::Tensor>> embed(const model::Decoder& decoder) const {
    std::vector<at::Tensor> states;
    for (const eval::Tokens& sequence : text_.sequences) {
      AUTOGLM_ASSIGN_OR_RETURN(at::Tensor embedded, decoder.embed(sequence));
      states.push_back(std::move(embedded));
    }
    return states;
  }

  Status carry(const format::ModelConfig& config, const model::Block& block, std::vector<at::Tensor>& states) {
    for (at::Tensor& state : states) {
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      state = model::forward(config, block, rotary_, state);
    }
    return ok_status();
  }

  /// Formats half a bit to two bits away, the one that pays most for its bytes (`direction` 1) or costs least for those
  /// it saves (-1); where a group has none, it stays.
  Allocation aside(const Allocation& from, int direction) const {
    Allocation out = from;
    for (size_t i = 0; i < sensitivity_.groups.size(); ++i) {
      const Group& group = sensitivity_.groups[i];
      const Candidate& now = group.candidates[from.choices[i]];
      double best = 0;
      for (size_t c = 0; c < group.candidates.size(); ++c) {
        const Candidate& other = group.candidates[c];
        const auto bytes = static_cast<double>(direction * (other.bytes - now.bytes));
        const double bits = 8 * bytes / static_cast<double>(group.parameters);
        if (!allows(profile_, group, other.scheme) || bits < 0.5 || bits > 2) continue;
        const double gain = direction * (now.loss - other.loss) / bytes;  // for the bytes; less than 0 where it costs
        if (out.choices[i] != from.choices[i] && gain <= best) continue;
        best = gain;
        out.choices[i] = c;
      }
    }
    return out;
  }

  /// The best of staying and of both sides, if the measured differences added up.
  Result<Allocation> solve(const Allocation& now, const std::array<Allocation, 2>& sides,
                           const std::array<std::vector<double>, 2>& losses, int64_t bytes) const {
    Sensitivity measured;
    measured.other_bytes = sensitivity_.other_bytes;
    std::vector<std::vector<size_t>> places;
    for (size_t i = 0; i < sensitivity_.groups.size(); ++i) {
      Group group = sensitivity_.groups[i];
      const double least = std::min({0.0, losses[0][i], losses[1][i]});
      std::vector<size_t> choices = {now.choices[i]};
      std::vector<double> differences = {0};
      for (size_t side = 0; side < 2; ++side) {
        if (sides[side].choices[i] == now.choices[i]) continue;
        choices.push_back(sides[side].choices[i]);
        differences.push_back(losses[side][i]);
      }
      std::vector<Candidate> candidates;
      for (size_t c = 0; c < choices.size(); ++c) {
        candidates.push_back(group.candidates[choices[c]]);
        candidates.back().loss = differences[c] - least;
      }
      group.candidates = std::move(candidates);
      measured.groups.push_back(std::move(group));
      places.push_back(std::move(choices));
    }
    AUTOGLM_ASSIGN_OR_RETURN(Allocation out, allocate(measured, bytes, profile_));
    out.loss = 0;
    for (size_t i = 0; i < places.size(); ++i) {
      out.choices[i] = places[i][out.choices[i]];
      out.loss += sensitivity_.groups[i].candidates[out.choices[i]].loss;
    }
    return out;
  }

  Result<Rounded> round_to(const Allocation& allocation) const {
    const pass::Recipe recipe = rounding_alone(with_allocation(recipe_, sensitivity_, allocation));
    AUTOGLM_ASSIGN_OR_RETURN(const pass::Resolved resolved,
                             pass::resolve(recipe, source_.config(), source_.layout(), &source_.checkpoint(), registry_,
                                           /*calibrated=*/false));
    AUTOGLM_ASSIGN_OR_RETURN(const pass::Plan plan,
                             pass::make_plan(recipe, registry_, resolved, &source_.checkpoint(), {}));
    AUTOGLM_ASSIGN_OR_RETURN(
        auto writer, format::CheckpointWriter::create(options_.scratch / "autoglm-swaps",
                                                      {.expected_bytes = plan.bytes_after, .cancel = &cancel_}));
    const pass::PipelineInput input{&recipe, &registry_, &resolved, &plan, &source_, {}, nullptr, {}};
    AUTOGLM_RETURN_IF_ERROR(pass::run_pipeline(input, writer, cancel_).status());
    AUTOGLM_RETURN_IF_ERROR(writer.finish());
    AUTOGLM_ASSIGN_OR_RETURN(model::Decoder decoder, model::Decoder::open(writer.staging(), source_.options()));
    return Rounded{std::move(writer), std::move(decoder)};
  }

  /// Makes `allocation` the one that groups are changed in; returns what it loses.
  Result<double> settle(const Allocation& allocation) {
    base_.reset();
    AUTOGLM_ASSIGN_OR_RETURN(Rounded rounded, round_to(allocation));
    base_.emplace(std::move(rounded));
    const model::Decoder& decoder = base_->decoder;
    states_.clear();
    AUTOGLM_ASSIGN_OR_RETURN(std::vector<at::Tensor> states, embed(decoder));
    for (int64_t layer = 0; layer < decoder.config().num_hidden_layers; ++layer) {
      states_.push_back(states);
      AUTOGLM_ASSIGN_OR_RETURN(const model::Block block, decoder.load_block(layer, &cancel_));
      AUTOGLM_RETURN_IF_ERROR(carry(decoder.config(), block, states));
    }
    states_.push_back(std::move(states));
    return divergence_of(states_.back(), decoder);
  }

  /// What the base loses with one group as `other` has it.
  Result<double> divergence(size_t index, const model::Decoder& other) {
    const model::Decoder& base = base_->decoder;
    const Group& group = sensitivity_.groups[index];
    const std::set<std::string> modules(group.modules.begin(), group.modules.end());
    const int64_t layers = base.config().num_hidden_layers;
    int64_t changed = group.kind == "head" ? layers : -1;  // its layer
    for (const format::ModuleSpec& module : base.layout().modules()) {
      if (modules.contains(module.name) && module.layer >= 0) changed = module.layer;
    }
    std::vector<at::Tensor> states = states_[static_cast<size_t>(std::max<int64_t>(changed, 0))];
    if (changed < 0) {
      AUTOGLM_ASSIGN_OR_RETURN(states, embed(other));
    }
    for (int64_t layer = std::max<int64_t>(changed, 0); layer < layers; ++layer) {
      AUTOGLM_ASSIGN_OR_RETURN(model::Block block, base.load_block(layer, &cancel_));
      if (layer == changed) {
        AUTOGLM_ASSIGN_OR_RETURN(model::Block with, other.load_block(layer, &cancel_));
        exchange(block, with, modules);
      }
      AUTOGLM_RETURN_IF_ERROR(carry(base.config(), block, states));
    }
    return divergence_of(states, group.kind == "head" ? other : base);
  }

  static void exchange(model::Block& block, model::Block& with, const std::set<std::string>& modules) {
    for (const format::Stage stage : format::kStages) {
      const auto into = block.linears(stage), from = with.linears(stage);
      for (size_t i = 0; i < into.size(); ++i) {
        if (modules.contains(into[i]->spec.name)) *into[i] = *from[i];
      }
    }
  }

  /// Mean KL(source || `decoder`'s head on `states`), nats per token.
  Result<double> divergence_of(const std::vector<at::Tensor>& states, const model::Decoder& decoder) {
    ++measurements_;
    double sum = 0;
    for (size_t i = 0; i < states.size(); ++i) {
      for (int64_t first = 0; first < states[i].size(1); first += kLogitRows) {
        AUTOGLM_RETURN_IF_ERROR(cancel_.check());
        const int64_t count = std::min(kLogitRows, states[i].size(1) - first);
        AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor p, source_.logits(wanted_[i][0].narrow(0, first, count)));
        AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor q, decoder.logits(states[i][0].narrow(0, first, count)));
        const at::Tensor log_p = at::log_softmax(p, -1);
        sum += log_p.exp().mul_(log_p - at::log_softmax(q, -1)).sum().item<double>();
      }
    }
    return sum / static_cast<double>(text_.tokens);
  }

  const model::Decoder& source_;
  const pass::Recipe& recipe_;
  const pass::Registry& registry_;
  const Sensitivity& sensitivity_;
  Profile profile_;
  const SwapOptions& options_;
  CancelToken& cancel_;
  Excerpt text_;
  int64_t measurements_ = 0;
  model::Rotary rotary_;
  std::vector<at::Tensor> wanted_;  ///< the source's last states, by sequence
  std::optional<Rounded> base_;
  std::vector<std::vector<at::Tensor>> states_;  ///< the base's, before every layer and after the last
};

}  // namespace

Result<Swapped> measure_swaps(const model::Decoder& source, const pass::Recipe& recipe, const pass::Registry& registry,
                              const Sensitivity& sensitivity, const Allocation& start, int64_t bytes, Profile profile,
                              const std::vector<eval::Tokens>& calibration, const SwapOptions& options,
                              CancelToken& cancel) {
  return tensor::guarded([&] {
    const at::NoGradGuard no_grad;
    return Swapper(source, recipe, registry, sensitivity, profile, options, cancel).run(start, bytes, calibration);
  });
}

int64_t swaps_bytes(const model::Decoder& source, const SwapOptions& options) {
  const format::ModelConfig& config = source.config();
  const int64_t states = (config.num_hidden_layers + 4) * options.tokens * config.hidden_size * int64_t{4};
  const int64_t logits = 6 * kLogitRows * config.vocab_size * int64_t{4};
  return states + std::max(logits, 3 * source.float_block_bytes());
}

}  // namespace autoglm::search
