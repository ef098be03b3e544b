#include "compress/pass/shift.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "compress/calibrate/collector.h"
#include "compress/pass/artifact.h"
#include "compress/pass/block_stages.h"
#include "compress/tensor/bridge.h"
#include "core/base/progress.h"

namespace autoglm::pass {
namespace {

using calibrate::InputStatistics;
using format::Stage;

/// One set on its way through the blocks.
struct Traveller {
  BlockStages stages;
  calibrate::StatisticsByLinear seen;  ///< of the stage at hand
};

/// Fraction of the outputs' energy that is lost: tr(D H D^T) / tr(W H W^T).
struct OutputError {
  double lost = 0, whole = 0;
  double share() const { return whole > 0 ? lost / whole : 0; }
};

double energy(const at::Tensor& rows, const at::Tensor& hessian) {
  return at::mm(rows, hessian).mul_(rows).sum(at::kDouble).item<double>();
}

double channel_distance(const at::Tensor& calibration, const at::Tensor& evaluation) {
  const at::Tensor expected = evaluation.sqrt();
  const double norm = expected.norm().item<double>();
  return norm > 0 ? (calibration.sqrt() - expected).norm().item<double>() / norm : 0;
}

double range_ratio(const calibrate::Observed& calibration, const calibrate::Observed& evaluation) {
  const double seen = std::max(calibration.max, -calibration.min), met = std::max(evaluation.max, -evaluation.min);
  return seen > 0 ? met / seen : 1;
}

class ShiftMeter {
 public:
  ShiftMeter(const model::Decoder& source, Pass& pass, const ShiftOptions& options, CancelToken& cancel)
      : source_(source), pass_(pass), options_(options), cancel_(cancel) {}

  Status add(const TextSet& set, int64_t sets) {
    const MemoryUse memory{.streaming = false,
                           .batch_tokens = options_.batch_tokens,
                           .state_bytes = options_.state_bytes / sets,
                           .source_states = false,
                           .statistics_bytes = 0};
    const auto embed = [&](const at::Tensor& ids) { return source_.embed(ids); };
    auto stages = BlockStages::create(source_, set.sequences, memory, options_.scratch, embed, cancel_);
    if (!stages.ok()) return stages.status().with_context(set.name);
    shifts_.push_back({set.name, stages->tokens(), {}});
    travellers_.push_back({std::move(*stages), {}});
    return ok_status();
  }

  /// The first set is the one that the others are compared with.
  Result<std::vector<SetShift>> run() {
    const int64_t layers = source_.config().num_hidden_layers;
    Progress progress("comparing text", layers);
    for (int64_t layer = 0; layer < layers; ++layer) {
      AUTOGLM_ASSIGN_OR_RETURN(model::Block block, source_.load_block(layer, &cancel_));
      for (const Stage stage : format::kStages) AUTOGLM_RETURN_IF_ERROR(run_stage(block, stage));
      progress.update(layer + 1);
    }
    shifts_.erase(shifts_.begin());
    return std::move(shifts_);
  }

 private:
  Status run_stage(model::Block& block, Stage stage) {
    std::map<const InputStatistics*, std::vector<model::Linear*>> sharing;  // by what the first set saw
    std::vector<const InputStatistics*> inputs;
    for (Traveller& traveller : travellers_) {
      calibrate::Needs needs = pass_.needs();
      needs.summary = true;
      calibrate::Collector collector(stage, needs, traveller.stages.tokens(),
                                     [](const model::Linear& linear) { return linear.spec.expert < 0; });
      AUTOGLM_RETURN_IF_ERROR(traveller.stages.collect(block, stage, collector, cancel_));
      AUTOGLM_ASSIGN_OR_RETURN(traveller.seen, collector.finish());
    }
    for (model::Linear* linear : block.linears(stage)) {
      const auto found = travellers_.front().seen.find(linear);
      if (found == travellers_.front().seen.end()) continue;
      auto& sharers = sharing[found->second.get()];
      if (sharers.empty()) inputs.push_back(found->second.get());
      sharers.push_back(linear);
    }
    for (const InputStatistics* input : inputs) AUTOGLM_RETURN_IF_ERROR(compare(block.layer, sharing[input]));
    for (Traveller& traveller : travellers_) {
      traveller.seen.clear();
      if (stage == Stage::kO) AUTOGLM_RETURN_IF_ERROR(traveller.stages.finish_attention(block, cancel_));
      if (stage == Stage::kDown) AUTOGLM_RETURN_IF_ERROR(traveller.stages.finish_mlp(block, cancel_));
    }
    return ok_status();
  }

  Status compare(int64_t layer, const std::vector<model::Linear*>& linears) {
    const InputStatistics& expected = *travellers_.front().seen.at(linears.front());
    const at::Tensor hessian = expected.hessian.clone();  // the pass may take its own
    double own = 0;
    for (size_t i = 0; i < travellers_.size(); ++i) {
      InputStatistics& seen = *travellers_[i].seen.at(linears.front());
      InputShift shift;
      shift.input = linears.front()->spec.name;
      shift.layer = layer;
      shift.distance =
          jensen_shannon_distance(seen.summary.observed().histogram, expected.summary.observed().histogram);
      shift.channel_distance = channel_distance(seen.mean_square, expected.mean_square);
      shift.range_ratio = range_ratio(seen.summary.observed(), expected.summary.observed());
      AUTOGLM_ASSIGN_OR_RETURN(const double error, quantize(linears, seen, hessian));
      if (i == 0) own = error;
      shift.error = error;
      shift.own_error = own;
      shifts_[i].inputs.push_back(std::move(shift));
    }
    return ok_status();
  }

  /// Quantizes what reads the input by `seen`; the error under `hessian`.
  Result<double> quantize(const std::vector<model::Linear*>& linears, InputStatistics& seen,
                          const at::Tensor& hessian) {
    std::vector<Target> targets(linears.size());
    std::vector<Target*> stage;
    for (size_t i = 0; i < linears.size(); ++i) {
      const at::Tensor& weight = linears[i]->weight;
      targets[i].name = linears[i]->spec.name;
      targets[i].rows = weight.size(0);
      targets[i].cols = weight.size(1);
      targets[i].scheme = options_.scheme;
      const Status fits = targets[i].scheme.fit_group_size(weight.size(1));
      if (!fits.ok()) return fits.with_context(targets[i].name);
      targets[i].scale_dtype = format::DType::kF32;
      targets[i].read = [&weight](int64_t first, int64_t count) -> Result<at::Tensor> {
        return weight.narrow(0, first, count).to(at::kCPU, at::kFloat).contiguous();
      };
      targets[i].input = &seen;
      stage.push_back(&targets[i]);
    }
    AUTOGLM_RETURN_IF_ERROR(pass_.run(stage, cancel_));
    OutputError error;
    const at::Tensor on_cpu = hessian.cpu();
    for (const Target& target : targets) {
      AUTOGLM_RETURN_IF_ERROR(for_each_piece(target, cancel_, [&](int64_t first, const at::Tensor& rows) {
        error.whole += energy(rows, on_cpu);
        error.lost += energy(rows - result_rows(target, first, rows.size(0), at::kFloat), on_cpu);
        return ok_status();
      }));
    }
    return error.share();
  }

  const model::Decoder& source_;
  Pass& pass_;
  const ShiftOptions& options_;
  CancelToken& cancel_;
  std::vector<Traveller> travellers_;  // the evaluation set first
  std::vector<SetShift> shifts_;
};

Result<std::unique_ptr<Pass>> calibrated_pass(const Registry& registry, const std::string& method) {
  AUTOGLM_ASSIGN_OR_RETURN(std::unique_ptr<Pass> pass, registry.make(method, nlohmann::json()));
  if (pass->needs().hessian && !pass->needs().drift) return pass;
  return invalid_argument(fmt::format("method '{}' cannot show what calibration text does to it; use gptq", method));
}

}  // namespace

Result<std::vector<SetShift>> measure_shift(const model::Decoder& source, const Registry& registry,
                                            const std::vector<TextSet>& calibration, const TextSet& evaluation,
                                            const ShiftOptions& options, CancelToken& cancel) {
  return tensor::guarded([&]() -> Result<std::vector<SetShift>> {
    const at::NoGradGuard no_grad;
    AUTOGLM_ASSIGN_OR_RETURN(const std::unique_ptr<Pass> pass, calibrated_pass(registry, options.method));
    ShiftMeter meter(source, *pass, options, cancel);
    const auto sets = static_cast<int64_t>(calibration.size()) + 1;
    AUTOGLM_RETURN_IF_ERROR(meter.add(evaluation, sets));
    for (const TextSet& set : calibration) AUTOGLM_RETURN_IF_ERROR(meter.add(set, sets));
    return meter.run();
  });
}

int64_t shift_bytes(const model::Decoder& source, const std::vector<TextSet>& calibration, const TextSet& evaluation,
                    const ShiftOptions& options) {
  const auto sets = static_cast<int64_t>(calibration.size()) + 1;
  const auto element = static_cast<int64_t>(c10::elementSize(source.options().compute));
  const format::ModelConfig& config = source.config();
  int64_t tokens = 0, block = 0, statistics = 0, result = 0;
  const auto count = [&](const TextSet& set) {
    for (const eval::Tokens& sequence : set.sequences) tokens += static_cast<int64_t>(sequence.size());
  };
  count(evaluation);
  for (const TextSet& set : calibration) count(set);
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    block = std::max(block, source.block_bytes(layer));
    std::map<Stage, std::map<int64_t, int64_t>> widths;  // inputs that differ in width are not the same
    for (const format::ModuleSpec* module : source.layout().block(layer)) {
      const auto stage = format::stage_of(module->role);
      if (!stage || module->expert >= 0) continue;
      const int64_t width = module->shape[1];
      widths[*stage][width] = calibrate::statistics_bytes({.hessian = true, .summary = true}, width);
      result = std::max(result, module->shape[0] * width * 2);
    }
    for (const auto& [stage, inputs] : widths) {
      int64_t sum = 0;
      for (const auto& [width, bytes] : inputs) sum += bytes;
      statistics = std::max(statistics, sum);
    }
  }
  const int64_t states = std::min(options.state_bytes, tokens * config.hidden_size * element);
  const int64_t activations = options.batch_tokens * element * 4 * (config.hidden_size + config.intermediate_size);
  return states + block + (sets + 2) * statistics + std::max(activations, result + (64 << 20));
}

}  // namespace autoglm::pass
