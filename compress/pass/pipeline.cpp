#include "compress/pass/pipeline.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "compress/calibrate/collector.h"
#include "compress/calibrate/statistics_file.h"
#include "compress/pass/artifact.h"
#include "compress/pass/bias_correction.h"
#include "compress/pass/block_stages.h"
#include "compress/pass/smoothing.h"
#include "compress/tensor/bridge.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"

namespace autoglm::pass {
namespace {

using format::Role;
using format::Stage;

/// What is known of modules beside their tensors.
struct Traces {
  format::Folds folds;
  calibrate::StatisticsFile statistics;
  std::vector<TensorReport> reports;
  std::vector<std::string> corrected;  ///< modules whose bias is another one

  nlohmann::json to_json() const {
    nlohmann::json tensors = nlohmann::json::array();
    for (const TensorReport& t : reports) {
      tensors.push_back({t.name, t.method, t.scheme, t.mse, t.cosine, t.output_error, t.note});
    }
    return {{"tensors", tensors}, {"corrected", corrected}};
  }

  /// Throws nlohmann::json::exception for what `to_json` does not give.
  void read_json(const nlohmann::json& json) {
    for (const nlohmann::json& t : json.at("tensors")) {
      reports.push_back({t.at(0), t.at(1), t.at(2), t.at(3), t.at(4), t.at(5), t.at(6)});
    }
    corrected = json.at("corrected").get<std::vector<std::string>>();
  }
};

/// A decision whose weight is in memory, being compressed.
struct Work {
  const Decision* decision = nullptr;
  model::Linear* linear = nullptr;  ///< in the block; null for embedding and head
  Target target;
};

class Pipeline {
 public:
  Pipeline(const PipelineInput& input, Methods methods, format::CheckpointWriter& writer, CancelToken& cancel)
      : input_(input),
        methods_(std::move(methods)),
        decoder_(*input.source),
        writer_(writer),
        artifact_(input.source->checkpoint(), folds_, writer),
        cancel_(cancel),
        progress_("compressing", input.resolved->config.num_hidden_layers + 2) {
    if (Smoother* smoother = methods_.smoother()) smoothing_.emplace(decoder_, *input.resolved, *smoother);
  }

  Result<PipelineReport> run() {
    report_.carried_over = input_.resolved->others;
    report_.dropped = input_.resolved->dropped;
    report_.predicted_peak_rss = input_.plan->peak_rss;
    AUTOGLM_RETURN_IF_ERROR(writer_.write_file("config.json", input_.resolved->config_json()));
    AUTOGLM_RETURN_IF_ERROR(input_.plan->memory.streaming ? stream_all() : run_blocks());
    for (const std::string& name : input_.resolved->others) {
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      const StageClock::Scope timed(clock_, "writing");
      AUTOGLM_RETURN_IF_ERROR(artifact_.copy(name));
    }
    settle();
    if (!folds_.empty()) AUTOGLM_RETURN_IF_ERROR(folds_.write(writer_.staging()));
    if (!statistics_.empty()) AUTOGLM_RETURN_IF_ERROR(statistics_.write(writer_.staging()));
    AUTOGLM_RETURN_IF_ERROR(copy_small_files(decoder_.checkpoint().folder(), writer_));
    report_.seconds = clock_.seconds();
    report_.peak_rss = peak_rss_bytes();
    report_.bytes_written = writer_.tensor_bytes();
    return std::move(report_);
  }

 private:
  Status stream_all() {
    for (const Decision& decision : input_.resolved->decisions) {
      const int64_t done = decision.module.layer >= 0                 ? decision.module.layer + 1
                           : decision.module.role == Role::kEmbedding ? 0
                                                                      : input_.resolved->config.num_hidden_layers + 1;
      progress_.update(done, decision.module.name);
      AUTOGLM_RETURN_IF_ERROR(stream(decision));
    }
    return ok_status();
  }

  /// One module from file to file.
  Status stream(const Decision& decision) {
    AUTOGLM_RETURN_IF_ERROR(cancel_.check());
    if (!decision.scheme) return copy(decision);
    Target target = artifact_.file_target(decision);
    AUTOGLM_RETURN_IF_ERROR(compress_alone(decision, target));
    return write(decision, target);
  }

  Status copy(const Decision& decision) {
    const StageClock::Scope timed(clock_, "writing");
    AUTOGLM_RETURN_IF_ERROR(artifact_.copy_weight(decision));
    return artifact_.write_bias(decision, cancel_);
  }

  Status write(const Decision& decision, Target& target, const at::Tensor& corrected_bias = {}) {
    const StageClock::Scope timed(clock_, "writing");
    AUTOGLM_RETURN_IF_ERROR(artifact_.write(decision, target));
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
    AUTOGLM_ASSIGN_OR_RETURN(TensorReport report, measure(target, decision.method, sample, cancel_));
    traces_.reports.push_back(std::move(report));
    return ok_status();
  }

  Status run_blocks() {
    std::map<int64_t, std::vector<const Decision*>> blocks;
    std::vector<const Decision*> after;  // final norm and head
    const Decision* embedding = nullptr;
    for (const Decision& decision : input_.resolved->decisions) {
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
      if (!traces_.folds.empty()) AUTOGLM_RETURN_IF_ERROR(traces_.folds.write(writer.staging()));
      if (!traces_.statistics.empty()) AUTOGLM_RETURN_IF_ERROR(traces_.statistics.write(writer.staging()));
      AUTOGLM_ASSIGN_OR_RETURN(const auto folder, input_.journal->finish(writer, traces_.to_json()));
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
    try {
      traces_.read_json(part.record);
    } catch (const nlohmann::json::exception&) {
      return part.damaged();
    }
    AUTOGLM_ASSIGN_OR_RETURN(traces_.statistics, calibrate::StatisticsFile::read(part.folder));
    AUTOGLM_ASSIGN_OR_RETURN(traces_.folds,
                             format::Folds::read(part.folder, input_.resolved->layout, input_.resolved->config));
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

  Status run_round(model::Block& block, Stage stage, std::span<Work> round) {
    AUTOGLM_ASSIGN_OR_RETURN(calibrate::StatisticsByLinear statistics, collect(block, stage, round));
    calibrate::InputStatistics nothing;  // of an expert that no token reached
    std::set<const calibrate::InputStatistics*> seen;
    std::map<Pass*, std::vector<Target*>> by_pass;
    std::vector<Pass*> passes;
    for (Work& work : round) {
      if (methods_.needs(*work.decision).any()) {
        const auto found = statistics.find(work.linear);
        work.target.input = found != statistics.end() ? found->second.get() : &nothing;
        if (seen.insert(work.target.input).second) {
          traces_.statistics.add(work.target.name, work.target.input->summary, work.decision->module.expert >= 0);
        }
        set_input_scale(work.target);
      }
      Pass* pass = &methods_.of(*work.decision);
      if (by_pass[pass].empty()) passes.push_back(pass);
      by_pass[pass].push_back(&work.target);
    }
    {
      const StageClock::Scope timed(clock_, "quantizing");
      for (Pass* pass : passes) AUTOGLM_RETURN_IF_ERROR(pass->run(by_pass[pass], cancel_));
    }
    for (Work& work : round) AUTOGLM_RETURN_IF_ERROR(put_in_place(work));
    return ok_status();
  }

  Result<calibrate::StatisticsByLinear> collect(model::Block& block, Stage stage, std::span<const Work> round) {
    calibrate::Needs needs;
    std::set<const model::Linear*> wanted;
    for (const Work& work : round) {
      const calibrate::Needs own = methods_.needs(*work.decision);
      if (own.any()) wanted.insert(work.linear);
      needs = needs | own;
    }
    if (wanted.empty()) return calibrate::StatisticsByLinear();
    const StageClock::Scope timed(clock_, "calibration");
    calibrate::Collector collector(stage, needs, stages_.tokens(),
                                   [&](const model::Linear& linear) { return wanted.contains(&linear); });
    AUTOGLM_RETURN_IF_ERROR(stages_.collect(block, stage, collector, cancel_));
    return collector.finish();
  }

  /// Measures, replaces the block's weight by what was stored, writes.
  Status put_in_place(Work& work) {
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor bias, correct_bias(work));  // while the weight is still what it was
    {
      const StageClock::Scope timed(clock_, "measuring");
      const at::Tensor sample = work.target.input != nullptr && work.target.input->sample.defined()
                                    ? work.target.input->sample.cpu()
                                    : at::Tensor();
      AUTOGLM_ASSIGN_OR_RETURN(TensorReport report, measure(work.target, work.decision->method, sample, cancel_));
      const std::string folded = smoothing_ ? smoothing_->note(work.target.name) : "";
      report.note += (report.note.empty() || folded.empty() ? "" : "; ") + folded;
      traces_.reports.push_back(std::move(report));
      put_into_block(work);
    }
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

  /// The bias [rows] that makes up for the mean error of the outputs, put in place as it will be stored; undefined
  /// where there is none to correct.
  Result<at::Tensor> correct_bias(Work& work) {
    const calibrate::InputStatistics* input = work.target.input;
    if (!work.linear->bias.defined() || input == nullptr || !input->mean.defined()) return at::Tensor();
    const StageClock::Scope timed(clock_, "quantizing");
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor shift, mean_shift(work.target, input->mean, cancel_));
    const at::Tensor now = work.linear->bias.narrow(0, work.decision->first_row, work.target.rows);
    const format::DType stored = decoder_.checkpoint().find(work.decision->source.bias_name())->dtype;
    const at::Tensor corrected = now.to(at::kCPU, at::kFloat).add(shift).to(tensor::to_torch(stored));
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

Status copy_small_files(const std::filesystem::path& from, format::CheckpointWriter& writer) {
  static const std::set<std::string> kKinds = {".json", ".jinja", ".txt", ".model", ".tiktoken", ".md"};
  constexpr uintmax_t kLargest = 256 << 20;
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (std::filesystem::directory_iterator it(from, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    // A tokenizer's own code is named by tokenizer_config.json; a model's is not needed, its config being a known one.
    const bool wanted = kKinds.contains(it->path().extension().string()) || name == "LICENSE" ||
                        (name.starts_with("tokenization_") && name.ends_with(".py"));
    const bool own = name == "config.json" || name == "autoglm.json" || name == "report.json" || name == "report.md" ||
                     name.ends_with(".index.json");
    std::error_code ignored;
    if (wanted && !own && it->is_regular_file(ignored) && it->file_size(ignored) <= kLargest)
      files.push_back(it->path());
  }
  if (error) return bad_input(fmt::format("{}: cannot list the folder: {}", from.string(), error.message()));
  std::sort(files.begin(), files.end());
  for (const auto& file : files) AUTOGLM_RETURN_IF_ERROR(writer.copy_file(file, file.filename()));
  return ok_status();
}

}  // namespace autoglm::pass
