#include "compress/pass/pipeline.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "compress/calibrate/collector.h"
#include "compress/pass/artifact.h"
#include "compress/pass/bias_correction.h"
#include "compress/pass/block_stages.h"
#include "compress/pass/repair.h"
#include "compress/pass/smoothing.h"
#include "compress/pass/traces.h"
#include "compress/tensor/bridge.h"
#include "core/base/background.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/format/small_files.h"

namespace autoglm::pass {
namespace {

using format::Role;
using format::Stage;

/// A decision whose weight is in memory, being compressed.
struct Work {
  const Decision* decision = nullptr;
  model::Linear* linear = nullptr;
  Target target;
  TensorReport report;  ///< what its result loses
  at::Tensor shift;     ///< [rows] to be added to the bias; undefined: it stays
  std::string before;   ///< what it lost before it got more bits; "" if it did not
};

class Pipeline {
 public:
  Pipeline(const PipelineInput& input, Methods methods, format::CheckpointWriter& writer, CancelToken& cancel)
      : input_(input),
        resolved_(*input.resolved),
        methods_(std::move(methods)),
        decoder_(*input.source),
        writer_(writer),
        artifact_(input.source->checkpoint(), folds_, writer),
        cancel_(cancel),
        progress_("compressing", input.resolved->config.num_hidden_layers + 2) {
    if (Smoother* smoother = methods_.smoother()) smoothing_.emplace(decoder_, resolved_, *smoother);
  }

  Result<PipelineReport> run() {
    report_.carried_over = resolved_.others;
    report_.dropped = resolved_.dropped;
    report_.predicted_peak_rss = input_.plan->peak_rss;
    AUTOGLM_RETURN_IF_ERROR(writer_.write_file("config.json", resolved_.config_json()));
    AUTOGLM_RETURN_IF_ERROR(input_.plan->memory.streaming ? stream_all() : run_blocks());
    for (const std::string& name : resolved_.others) {
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      const StageClock::Scope timed(clock_, "writing");
      AUTOGLM_RETURN_IF_ERROR(artifact_.copy(name));
    }
    settle();
    if (repaired_) {
      resolved_.quantization = describe_quantization(resolved_.decisions, resolved_.others);
      AUTOGLM_RETURN_IF_ERROR(writer_.write_file("config.json", resolved_.config_json()));
    }
    if (!folds_.empty()) AUTOGLM_RETURN_IF_ERROR(folds_.write(writer_.staging()));
    if (!statistics_.empty()) AUTOGLM_RETURN_IF_ERROR(statistics_.write(writer_.staging()));
    AUTOGLM_RETURN_IF_ERROR(format::copy_small_files(decoder_.checkpoint().folder(), writer_.folder()));
    report_.seconds = clock_.seconds();
    report_.peak_rss = peak_rss_bytes();
    report_.bytes_written = writer_.tensor_bytes();
    return std::move(report_);
  }

 private:
  /// Module by module; one is written while the next is rounded, where memory has room for both.
  Status stream_all() {
    constexpr int64_t kReturnAfter = 64 << 20;  // integers: after every large weight, after some of many small ones
    int64_t rounded = 0;
    Background writing;
    for (const Decision& decision : resolved_.decisions) {
      const int64_t done = decision.module.layer >= 0                 ? decision.module.layer + 1
                           : decision.module.role == Role::kEmbedding ? 0
                                                                      : resolved_.config.num_hidden_layers + 1;
      progress_.update(done, decision.module.name);
      Result<Target> target = compress_from_file(decision);
      const StageClock::Scope timed(clock_, "writing");  // waiting for it
      if (!target.ok()) {
        AUTOGLM_RETURN_IF_ERROR(writing.wait());  // what failed first
        return target.status();
      }
      AUTOGLM_RETURN_IF_ERROR(writing.start([this, &decision, target = std::move(*target)]() mutable {
        return tensor::guarded([&] { return put(decision, target); });
      }));
      if (!input_.plan->memory.overlap) AUTOGLM_RETURN_IF_ERROR(writing.wait());
      rounded += format::element_count(decision.module.shape).value_or(0);
      if (rounded < kReturnAfter) continue;
      return_freed_memory();  // every thread has an arena that would keep some
      rounded = 0;
    }
    const StageClock::Scope timed(clock_, "writing");
    return writing.wait();
  }

  /// One module from file to file.
  Status stream(const Decision& decision) {
    AUTOGLM_ASSIGN_OR_RETURN(Target target, compress_from_file(decision));
    return write(decision, target);
  }

  /// Without a result where the decision has no scheme.
  Result<Target> compress_from_file(const Decision& decision) {
    AUTOGLM_RETURN_IF_ERROR(cancel_.check());
    Target target;
    if (!decision.scheme) return target;
    target = artifact_.file_target(decision);
    AUTOGLM_RETURN_IF_ERROR(compress_alone(decision, target));
    return target;
  }

  Status copy(const Decision& decision) {
    Target none;
    return write(decision, none);
  }

  Status write(const Decision& decision, Target& target, const at::Tensor& corrected_bias = {}) {
    const StageClock::Scope timed(clock_, "writing");
    return put(decision, target, corrected_bias);
  }

  /// The weight, compressed or as it is, and its bias to the file; touches nothing else.
  Status put(const Decision& decision, Target& target, const at::Tensor& corrected_bias = {}) {
    AUTOGLM_RETURN_IF_ERROR(decision.scheme ? artifact_.write(decision, target) : artifact_.copy_weight(decision));
    return artifact_.write_bias(decision, cancel_, corrected_bias);
  }

  Status compress_alone(const Decision& decision, Target& target) {
    std::vector<Target*> stage = {&target};
    {
      const StageClock::Scope timed(clock_, "quantizing");
      AUTOGLM_RETURN_IF_ERROR(methods_.of(decision).run(stage, cancel_));
    }
    const StageClock::Scope timed(clock_, "measuring");
    const at::Tensor sample = target.input != nullptr ? target.input->sample.cpu() : at::Tensor();
    AUTOGLM_ASSIGN_OR_RETURN(TensorReport report, measure(target, decision.method, sample, {}, cancel_));
    traces_.reports.push_back(std::move(report));
    return ok_status();
  }

  Status run_blocks() {
    std::map<int64_t, std::vector<const Decision*>> blocks;
    std::vector<const Decision*> after;  // final norm and head
    const Decision* embedding = nullptr;
    for (const Decision& decision : resolved_.decisions) {
      if (decision.module.layer >= 0) {
        blocks[decision.module.layer].push_back(&decision);
      } else if (decision.module.role == Role::kEmbedding) {
        embedding = &decision;
      } else {
        after.push_back(&decision);
      }
    }
    progress_.update(0, "embedding");
    AUTOGLM_RETURN_IF_ERROR(embed(*embedding));
    for (const auto& [layer, decisions] : blocks) {
      progress_.update(layer + 1, fmt::format("layer {} of {}", layer + 1, blocks.size()));
      AUTOGLM_RETURN_IF_ERROR(run_block(layer, decisions));
    }
    settle();
    progress_.update(static_cast<int64_t>(blocks.size()) + 1, "head");
    for (const Decision* decision : after) {
      const bool calibrated = methods_.needs(*decision).any();
      AUTOGLM_RETURN_IF_ERROR(calibrated ? run_head(*decision) : stream(*decision));
    }
    return ok_status();
  }

  /// Writes the embedding, and looks the calibration tokens up in it as it was written.
  Status embed(const Decision& decision) {
    std::function<Result<at::Tensor>(const at::Tensor&)> look_up = [&](const at::Tensor& ids) {
      return decoder_.embed(ids);
    };
    Target target;
    if (decision.scheme) {
      target = artifact_.file_target(decision);
      AUTOGLM_RETURN_IF_ERROR(compress_alone(decision, target));
      look_up = [&](const at::Tensor& ids) -> Result<at::Tensor> {
        AUTOGLM_ASSIGN_OR_RETURN(at::Tensor states, decoder_.embed(ids));  // checks the ids
        const auto [unique, places] = at::_unique(ids.reshape({-1}), /*sorted=*/true, /*return_inverse=*/true);
        at::Tensor rows = at::empty({unique.numel(), states.size(-1)}, states.options().device(at::kCPU));
        for (int64_t i = 0; i < unique.numel(); ++i) {
          rows[i].copy_(result_rows(target, unique[i].item<int64_t>(), 1, states.scalar_type())[0]);
        }
        states.copy_(rows.index_select(0, places).view(states.sizes()));
        return states;
      };
    }
    {
      const StageClock::Scope timed(clock_, "calibration");
      AUTOGLM_ASSIGN_OR_RETURN(stages_, BlockStages::create(decoder_, input_.calibration, input_.plan->memory,
                                                            writer_.target().parent_path(), look_up, cancel_));
      report_.calibration_tokens = stages_.tokens();
    }
    return decision.scheme ? write(decision, target) : copy(decision);
  }

  /// What was noted goes into the report and the files beside the tensors.
  void settle() {
    statistics_.append(std::move(traces_.statistics));
    report_.tensors.insert(report_.tensors.end(), traces_.reports.begin(), traces_.reports.end());
    traces_ = {};
  }

  /// Compresses a block, or takes it from the journal.
  Status run_block(int64_t layer, const std::vector<const Decision*>& decisions) {
    settle();
    return_freed_memory();
    const std::string part = fmt::format("layer-{:05}", layer);
    if (input_.journal == nullptr) {
      AUTOGLM_RETURN_IF_ERROR(compress_block(layer, decisions));
    } else if (input_.journal->has(part)) {
      AUTOGLM_ASSIGN_OR_RETURN(const Journal::Part found, input_.journal->read(part, &cancel_));
      AUTOGLM_RETURN_IF_ERROR(restore_block(layer, decisions, found));
      AUTOGLM_RETURN_IF_ERROR(take_over(found.tensors));
    } else {
      AUTOGLM_ASSIGN_OR_RETURN(format::CheckpointWriter writer, input_.journal->begin(part, &cancel_));
      artifact_.set_writer(writer);
      const Status status = compress_block(layer, decisions);
      artifact_.set_writer(writer_);
      AUTOGLM_RETURN_IF_ERROR(status);
      const StageClock::Scope timed(clock_, "writing");
      AUTOGLM_RETURN_IF_ERROR(traces_.write(writer.staging()));
      AUTOGLM_ASSIGN_OR_RETURN(const auto folder, input_.journal->finish(writer, traces_.record()));
      AUTOGLM_ASSIGN_OR_RETURN(const auto tensors, format::Checkpoint::open(folder));
      AUTOGLM_RETURN_IF_ERROR(take_over(tensors));
    }
    return input_.after_block ? input_.after_block(layer, stages_.states()) : ok_status();
  }

  Status take_over(const format::Checkpoint& part) {
    for (const std::string& name : part.names()) AUTOGLM_RETURN_IF_ERROR(writer_.add(name, part, name));
    return ok_status();
  }

  /// Does to the block and the states what `compress_block` did before it wrote `part`.
  Status restore_block(int64_t layer, const std::vector<const Decision*>& decisions, const Journal::Part& part) {
    const StageClock::Scope timed(clock_, "resuming");
    AUTOGLM_ASSIGN_OR_RETURN(traces_, Traces::read(part, resolved_.layout, resolved_.config));
    for (const TensorReport& report : traces_.reports) AUTOGLM_RETURN_IF_ERROR(repeat_repair(decisions, report));
    AUTOGLM_ASSIGN_OR_RETURN(model::Block block, decoder_.load_block(layer, &cancel_));
    if (smoothing_) smoothing_->repeat(block, traces_.folds);
    folds_.merge(traces_.folds);
    stages_.begin(block);
    for (const Decision* decision : decisions) {
      if (!decision->scheme || !format::stage_of(decision->module.role)) continue;
      Work work = prepare(block, *decision);
      AUTOGLM_RETURN_IF_ERROR(restore(work, part.tensors));
    }
    AUTOGLM_RETURN_IF_ERROR(stages_.finish_attention(block, cancel_));
    return stages_.finish_mlp(block, cancel_);
  }

  /// Gives a decision the scheme that it had in the end.
  Status repeat_repair(const std::vector<const Decision*>& decisions, const TensorReport& report) {
    for (const Decision* decision : decisions) {
      if (decision->module.name != report.name || decision->scheme->to_string() == report.scheme) continue;
      AUTOGLM_ASSIGN_OR_RETURN(const Scheme scheme, Scheme::parse(report.scheme));
      set_scheme(*decision, scheme);
    }
    return ok_status();
  }

  Status restore(Work& work, const format::Checkpoint& tensors) {
    const format::ModuleSpec& module = work.decision->module;
    Target& target = work.target;
    if (target.scheme.cast) {
      AUTOGLM_ASSIGN_OR_RETURN(const auto bytes, tensors.bytes(module.weight_name()));
      if (std::cmp_not_equal(bytes.size(), target.rows * target.cols * format::size_of(*target.scheme.cast))) {
        return bad_input(fmt::format("{}: {} has another size", tensors.folder().string(), module.weight_name()));
      }
      target.result = CastWeight{*target.scheme.cast, {bytes.begin(), bytes.end()}};
    } else {
      AUTOGLM_ASSIGN_OR_RETURN(target.result, format::decode(tensors, module.name, target.scheme.stored(),
                                                             target.scheme.format(), module.shape));
    }
    if (target.scheme.calibrates_input()) {
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor scale, tensor::load(tensors, module.name + ".input_scale", at::kFloat));
      target.input_scale = scale.item<float>();
    }
    if (std::find(traces_.corrected.begin(), traces_.corrected.end(), module.name) != traces_.corrected.end()) {
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor bias, tensor::load(tensors, module.bias_name(), at::kFloat));
      work.linear->bias.narrow(0, work.decision->first_row, target.rows).copy_(bias);
    }
    put_into_block(work);
    return ok_status();
  }

  Status compress_block(int64_t layer, const std::vector<const Decision*>& decisions) {
    model::Block block;
    {
      const StageClock::Scope timed(clock_, "loading");
      AUTOGLM_ASSIGN_OR_RETURN(block, decoder_.load_block(layer, &cancel_));
    }
    if (smoothing_) {
      const StageClock::Scope timed(clock_, "smoothing");
      AUTOGLM_ASSIGN_OR_RETURN(traces_.folds, smoothing_->run(block, decisions, stages_, cancel_));
      folds_.merge(traces_.folds);
    }
    stages_.begin(block);
    for (const Stage stage : format::kStages) {
      AUTOGLM_RETURN_IF_ERROR(run_stage(block, stage, decisions));
      if (stage == Stage::kO) {
        const StageClock::Scope timed(clock_, "calibration");
        AUTOGLM_RETURN_IF_ERROR(stages_.finish_attention(block, cancel_));
      }
    }
    for (const Decision* decision : decisions) {
      if (format::stage_of(decision->module.role)) continue;
      AUTOGLM_RETURN_IF_ERROR(stream(*decision));
    }
    {
      const StageClock::Scope timed(clock_, "calibration");
      AUTOGLM_RETURN_IF_ERROR(stages_.finish_mlp(block, cancel_));
    }
    return ok_status();
  }

  /// Compresses and writes the linears of one stage.
  Status run_stage(model::Block& block, Stage stage, const std::vector<const Decision*>& decisions) {
    std::vector<Work> work;
    for (const Decision* decision : decisions) {
      if (format::stage_of(decision->module.role) != stage) continue;
      if (!decision->scheme) {
        AUTOGLM_RETURN_IF_ERROR(copy(*decision));
      } else {
        work.push_back(prepare(block, *decision));
      }
    }
    // Experts are calibrated in rounds whose statistics fit into memory together; the others go with the first.
    for (size_t begin = 0; begin < work.size();) {
      size_t end = begin;
      std::set<int64_t> experts;
      for (int64_t bytes = 0; end < work.size(); ++end) {
        const format::ModuleSpec& module = work[end].decision->module;
        if (experts.contains(module.expert)) continue;
        bytes += calibrate::statistics_bytes(methods_.needs(*work[end].decision), module.shape[1]);
        if (!experts.empty() && bytes > input_.plan->memory.statistics_bytes) break;
        experts.insert(module.expert);
      }
      AUTOGLM_RETURN_IF_ERROR(run_round(block, stage, {work.data() + begin, end - begin}));
      begin = end;
    }
    return ok_status();
  }

  static Work prepare(model::Block& block, const Decision& decision) {
    Work work;
    work.decision = &decision;
    work.linear = linear_of(block, decision);
    work.target = block_target(*work.linear, decision);
    return work;
  }

  void set_input_scale(Target& target) const {
    if (!target.scheme.calibrates_input()) return;
    const double wanted =
        calibrate::static_scale(target.input->summary.observed(), input_.recipe->observer, *target.scheme.activations);
    target.input_scale = format::nearest_scale(target.scale_dtype, static_cast<float>(wanted));
  }

  static std::optional<format::InputQuant> input_of(const Target& target) {
    if (!target.scheme.activations) return std::nullopt;
    return format::InputQuant{*target.scheme.activations, target.input_scale};
  }

  /// Compresses what is calibrated together; again, with more bits, what loses more than the recipe allows.
  Status run_round(model::Block& block, Stage stage, std::span<Work> round) {
    std::vector<Work*> open;
    for (Work& work : round) open.push_back(&work);
    for (bool first = true; !open.empty(); first = false) {
      AUTOGLM_RETURN_IF_ERROR(attempt(block, stage, open, first));
      open = raise(open);
    }
    for (Work& work : round) AUTOGLM_RETURN_IF_ERROR(put_in_place(work));
    return ok_status();
  }

  Status attempt(model::Block& block, Stage stage, const std::vector<Work*>& round, bool first) {
    AUTOGLM_ASSIGN_OR_RETURN(calibrate::StatisticsByLinear statistics, collect(block, stage, round));
    calibrate::InputStatistics nothing;  // of an expert that no token reached
    std::set<const calibrate::InputStatistics*> seen;
    std::map<Pass*, std::vector<Target*>> by_pass;
    std::vector<Pass*> passes;
    for (Work* work : round) {
      if (methods_.needs(*work->decision).any()) {
        const auto found = statistics.find(work->linear);
        work->target.input = found != statistics.end() ? found->second.get() : &nothing;
        if (first && seen.insert(work->target.input).second) {
          traces_.statistics.add(work->target.name, work->target.input->summary, work->decision->module.expert >= 0);
        }
        set_input_scale(work->target);
      }
      Pass* pass = &methods_.of(*work->decision);
      if (by_pass[pass].empty()) passes.push_back(pass);
      by_pass[pass].push_back(&work->target);
    }
    {
      const StageClock::Scope timed(clock_, "quantizing");
      for (Pass* pass : passes) AUTOGLM_RETURN_IF_ERROR(pass->run(by_pass[pass], cancel_));
    }
    const StageClock::Scope timed(clock_, "measuring");
    for (Work* work : round) {
      AUTOGLM_RETURN_IF_ERROR(judge(*work));
      work->target.input = nullptr;  // its end
    }
    return ok_status();
  }

  Result<calibrate::StatisticsByLinear> collect(model::Block& block, Stage stage, const std::vector<Work*>& round) {
    calibrate::Needs needs;
    std::set<const model::Linear*> wanted;
    for (const Work* work : round) {
      const calibrate::Needs own = methods_.needs(*work->decision);
      if (own.any()) wanted.insert(work->linear);
      needs = needs | own;
    }
    if (wanted.empty()) return calibrate::StatisticsByLinear();
    const StageClock::Scope timed(clock_, "calibration");
    calibrate::Collector collector(stage, needs, stages_.tokens(),
                                   [&](const model::Linear& linear) { return wanted.contains(&linear); });
    AUTOGLM_RETURN_IF_ERROR(stages_.collect(block, stage, collector, cancel_));
    return collector.finish();
  }

  /// Measures what a result loses, with what the bias can give back. A method that weighs the mean error itself is
  /// helped only where it loses too much.
  Status judge(Work& work) {
    const calibrate::InputStatistics* input = work.target.input;
    const at::Tensor sample = input != nullptr && input->sample.defined() ? input->sample.cpu() : at::Tensor();
    at::Tensor shift;
    if (work.linear->bias.defined() && input != nullptr && input->mean.defined()) {
      AUTOGLM_ASSIGN_OR_RETURN(shift, mean_shift(work.target, input->mean, cancel_));
    }
    const bool weighs_mean = methods_.of(*work.decision).needs().hessian;
    const auto measured = [&](const at::Tensor& by) {
      return measure(work.target, work.decision->method, sample, by, cancel_);
    };
    work.shift = weighs_mean ? at::Tensor() : shift;
    AUTOGLM_ASSIGN_OR_RETURN(work.report, measured(work.shift));
    if (!weighs_mean || !shift.defined() || share_lost(work.report) <= input_.recipe->repair) return ok_status();
    AUTOGLM_ASSIGN_OR_RETURN(TensorReport corrected, measured(shift));
    if (corrected.output_error >= work.report.output_error) return ok_status();
    work.shift = shift;
    work.report = std::move(corrected);
    return ok_status();
  }

  /// Gives more bits to what lost too much and to what shares its input; returns what is to be done again. Routed
  /// experts are left alone: all of a layer have one format, and they are not in memory together.
  std::vector<Work*> raise(const std::vector<Work*>& done) {
    const double most = input_.recipe->repair;
    std::vector<Work*> again;
    std::copy_if(done.begin(), done.end(), std::back_inserter(again),
                 [](const Work* work) { return work->decision->module.expert < 0; });
    const bool loses =
        std::any_of(again.begin(), again.end(), [&](const Work* work) { return share_lost(work->report) > most; });
    const auto scheme = most > 0 && loses ? more_bits(*again.front()->decision->scheme) : std::nullopt;
    if (!scheme) return {};
    for (Work* work : again) {
      if (work->before.empty()) {
        work->before = fmt::format("{} lost {:.2g} %", work->report.scheme, 100 * share_lost(work->report));
      }
      set_scheme(*work->decision, *scheme);
      work->target.scheme = *scheme;
      work->target.result = std::monostate{};
      work->target.error.reset();
      work->target.note.clear();
    }
    return again;
  }

  /// `decision` is one of this pipeline's.
  void set_scheme(const Decision& decision, const Scheme& scheme) {
    resolved_.decisions[static_cast<size_t>(&decision - resolved_.decisions.data())].scheme = scheme;
    repaired_ = true;
  }

  /// Replaces the block's weight by what was stored, writes.
  Status put_in_place(Work& work) {
    std::string& note = work.report.note;
    for (const std::string& more : {work.before, smoothing_ ? smoothing_->note(work.target.name) : std::string()}) {
      note += (note.empty() || more.empty() ? "" : "; ") + more;
    }
    traces_.reports.push_back(work.report);
    const at::Tensor bias = corrected_bias(work);
    put_into_block(work);
    return write(*work.decision, work.target, bias);
  }

  /// The block computes with what was stored from here on.
  static void put_into_block(Work& work) {
    const at::Tensor rows = work.linear->weight.narrow(0, work.decision->first_row, work.target.rows);
    constexpr int64_t kRows = 1024;
    for (int64_t first = 0; first < work.target.rows; first += kRows) {
      const int64_t count = std::min(kRows, work.target.rows - first);
      rows.narrow(0, first, count).copy_(result_rows(work.target, first, count, work.linear->weight.scalar_type()));
    }
    work.linear->input = input_of(work.target);
  }

  /// The bias [rows] as it will be stored, put into the block; undefined where it stays.
  at::Tensor corrected_bias(Work& work) {
    if (!work.shift.defined()) return {};
    const at::Tensor now = work.linear->bias.narrow(0, work.decision->first_row, work.target.rows);
    const format::DType stored = decoder_.checkpoint().find(work.decision->source.bias_name())->dtype;
    at::Tensor corrected = now.to(at::kCPU, at::kFloat).add(work.shift).to(tensor::to_torch(stored));
    now.copy_(corrected);
    traces_.corrected.push_back(work.target.name);
    return corrected;
  }

  /// The head is calibrated by the final norm of the last states.
  Status run_head(const Decision& decision) {
    calibrate::InputStatistics statistics;
    {
      const StageClock::Scope timed(clock_, "calibration");
      calibrate::StatisticsBuilder builder(methods_.needs(decision), stages_.tokens());
      for (const calibrate::Batch& batch : stages_.batches()) {
        AUTOGLM_RETURN_IF_ERROR(cancel_.check());
        AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor states, stages_.states().get(batch.first, batch.count));
        AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor x, decoder_.head_input(states.view({-1, states.size(-1)})));
        builder.add(x);
      }
      AUTOGLM_ASSIGN_OR_RETURN(statistics, builder.finish(decision.module.name));
    }
    Target target = artifact_.file_target(decision);
    target.input = &statistics;
    traces_.statistics.add(target.name, statistics.summary, false);
    set_input_scale(target);
    AUTOGLM_RETURN_IF_ERROR(compress_alone(decision, target));
    return write(decision, target);
  }

  const PipelineInput& input_;
  Resolved resolved_;  ///< repaired as the work goes on
  Methods methods_;
  const model::Decoder& decoder_;
  format::CheckpointWriter& writer_;
  format::Folds folds_;
  Artifact artifact_;
  CancelToken& cancel_;
  Progress progress_;
  StageClock clock_;
  BlockStages stages_;
  std::optional<Smoothing> smoothing_;
  Traces traces_;  ///< of the embedding, of one block, or of the head
  calibrate::StatisticsFile statistics_;
  bool repaired_ = false;  ///< resolved_ is no longer what the input says
  PipelineReport report_;
};

}  // namespace

Result<PipelineReport> run_pipeline(const PipelineInput& input, format::CheckpointWriter& writer, CancelToken& cancel) {
  return tensor::guarded([&]() -> Result<PipelineReport> {
    const at::NoGradGuard no_grad;
    AUTOGLM_ASSIGN_OR_RETURN(Methods methods, Methods::create(*input.recipe, *input.registry, *input.resolved));
    return Pipeline(input, std::move(methods), writer, cancel).run();
  });
}

}  // namespace autoglm::pass
