#include <autoglm/compress.h>
#include <autoglm/version.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "api/child_process.h"
#include "api/engine.h"
#include "api/facts.h"
#include "api/model_source.h"
#include "api/settings.h"
#include "compress/pass/pipeline.h"
#include "compress/quant/register.h"
#include "compress/tensor/bridge.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/eval/dataset.h"
#include "core/eval/report.h"
#include "core/eval/tasks.h"
#include "core/format/checkpoint_writer.h"
#include "core/format/display.h"
#include "core/format/stored_model.h"

namespace autoglm {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr double kHeldOutShare = 0.1;         // of calibration text, where there is no other to evaluate on
constexpr double kShortestVerification = 10;  // seconds: below that, nothing can be said of a model

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Where calibration text comes from: what was named, else the model's own calibration tasks.
std::string calibration_source(const api::Settings& settings, const fs::path& model) {
  if (!settings.calibration.empty()) return settings.calibration;
  const fs::path own = model / "tasks" / "calibration.jsonl";
  std::error_code error;
  return fs::is_regular_file(own, error) ? own.string() : "";
}

// Documents of `text`, rendered with the model's chat template where they are chats.
Result<std::vector<std::string>> documents_of(const std::string& text, const fs::path& model) {
  const auto chat = tokenizer::ChatTemplate::load(model);  // plain text needs none; read_documents says when one lacks
  return eval::read_documents(text, chat.ok() ? &*chat : nullptr);
}

Result<std::vector<eval::Tokens>> calibration_tokens(const api::Settings& settings, const std::string& text,
                                                     const std::vector<std::string>& documents, const fs::path& model) {
  AUTOGLM_ASSIGN_OR_RETURN(const auto tokenizer, tokenizer::Tokenizer::load(model));
  auto sequences = eval::draw_sequences(documents, *tokenizer,
                                        {settings.calibration_samples, settings.calibration_length, settings.seed});
  if (!sequences.ok()) return sequences.status().with_context(text);
  return sequences;
}

// Text that was given for calibration and is also all there is to evaluate on: a share of it is held back.
bool shares_text(const api::Settings& settings, const std::string& calibration, const fs::path& model) {
  if (settings.verify == "none" || settings.calibration.empty()) return false;
  if (settings.evaluation.empty()) return !eval::find_tasks(model);
  std::error_code error;
  return fs::equivalent(settings.evaluation, calibration, error);
}

std::string default_output(const fs::path& model, const std::string& name, const api::Settings& settings) {
  const std::string base = fs::path(name).filename().empty() ? fs::absolute(model).parent_path().filename().string()
                                                             : fs::path(name).filename().string();
  return base.substr(0, base.find('@')) + "-" + settings.recipe.scheme.to_string();
}

// Whether writing the folder `output` would take the place of what `input` is read from.
bool lies_in(const fs::path& input, const fs::path& output) {
  std::error_code error;
  if (!fs::exists(output, error)) return false;
  for (fs::path at = fs::canonical(input, error); !error; at = at.parent_path()) {
    if (fs::equivalent(at, output, error)) return true;
    if (at == at.parent_path()) break;
  }
  return false;
}

// One compression from settled settings to the committed folder.
class Compression {
 public:
  Compression(const CompressOptions& options, api::Settings settings, CancelToken& cancel)
      : options_(options), settings_(std::move(settings)), cancel_(cancel) {}

  Result<CompressOutcome> run() {
    AUTOGLM_RETURN_IF_ERROR(prepare());
    if (options_.dry_run) return CompressOutcome{"", plan_.to_json().dump(2), plan_.to_text(), ok_status()};
    AUTOGLM_ASSIGN_OR_RETURN(auto writer, format::CheckpointWriter::create(
                                              output_, {settings_.max_shard, options_.overwrite, plan_.bytes_after}));
    AUTOGLM_RETURN_IF_ERROR(compress_into(writer));
    AUTOGLM_RETURN_IF_ERROR(writer.finish());
    AUTOGLM_ASSIGN_OR_RETURN(report_.artifact, facts(writer.staging()));
    AUTOGLM_RETURN_IF_ERROR(verify(writer.staging()));

    report_.artifact.path = writer.target().string();
    report_.warnings = warnings();
    CompressOutcome outcome{writer.target().string(), to_json(report_),
                            fmt::format("{}\n\n{}", verdict(report_), eval::summary_table({&report_, 1})), ok_status()};
    AUTOGLM_RETURN_IF_ERROR(writer.write_file("report.json", outcome.report_json));
    AUTOGLM_RETURN_IF_ERROR(writer.write_file("report.md", to_markdown(report_)));
    AUTOGLM_RETURN_IF_ERROR(writer.commit());
    if (report_.evaluation && report_.evaluation->contract) outcome.contract = report_.evaluation->contract->status();
    return outcome;
  }

 private:
  Status prepare() {
    threads_ = api::use_threads(settings_.threads);
    AUTOGLM_ASSIGN_OR_RETURN(model_, api::find_model(options_.model));
    quant::register_quantizers(registry_);
    calibration_text_ = calibration_source(settings_, model_);
    AUTOGLM_ASSIGN_OR_RETURN(const auto engine, api::decoder_options(settings_.device, settings_.compute));
    AUTOGLM_ASSIGN_OR_RETURN(decoder_, model::Decoder::open(model_, engine));
    AUTOGLM_ASSIGN_OR_RETURN(resolved_, pass::resolve(settings_.recipe, decoder_->config(), decoder_->layout(),
                                                      &decoder_->checkpoint(), registry_, !calibration_text_.empty()));
    calibrated_ = !resolved_->data_free(registry_, settings_.recipe);
    if (const int64_t most = decoder_->config().max_position_embeddings;
        calibrated_ && most > 0 && settings_.calibration_length > most) {
      warn(fmt::format("calibration sequences have {} tokens, the model's most, instead of {}", most,
                       settings_.calibration_length));
      settings_.calibration_length = most;
    }
    const pass::PlanOptions plan_options{
        .max_ram = settings_.max_ram,
        .max_shard_bytes = settings_.max_shard,
        .sequences = calibrated_ ? settings_.calibration_samples : 0,
        .length = calibrated_ ? settings_.calibration_length : 0,
        .compute = engine.compute,
        .threads = threads_,
    };
    AUTOGLM_ASSIGN_OR_RETURN(
        plan_, pass::make_plan(settings_.recipe, registry_, *resolved_, &decoder_->checkpoint(), plan_options));
    output_ = options_.output.empty() ? default_output(model_, options_.model, settings_) : options_.output;
    for (const fs::path& input : {model_, fs::path(calibration_text_), fs::path(settings_.evaluation)}) {
      if (input.empty() || !lies_in(input, output_)) continue;
      return invalid_argument(fmt::format("{}: the output would replace {}, which is read; name another folder",
                                          output_, format::display_path(input)));
    }
    return ok_status();
  }

  Status compress_into(format::CheckpointWriter& writer) {
    const auto start = Clock::now();
    pass::PipelineInput input{&settings_.recipe, &registry_, &*resolved_, &plan_, &*decoder_, {}};
    if (calibrated_) {
      AUTOGLM_ASSIGN_OR_RETURN(auto documents, documents_of(calibration_text_, model_));
      if (shares_text(settings_, calibration_text_, model_)) {
        AUTOGLM_RETURN_IF_ERROR(hold_back(documents, writer.staging()));
      }
      AUTOGLM_ASSIGN_OR_RETURN(input.calibration, calibration_tokens(settings_, calibration_text_, documents, model_));
      report_.calibration = eval::TextUse{calibration_text_, static_cast<int64_t>(input.calibration.size()),
                                          settings_.calibration_length, settings_.seed};
    }
    AUTOGLM_ASSIGN_OR_RETURN(const auto pipeline, pass::run_pipeline(input, writer, cancel_));
    seconds_ = seconds_since(start);

    report_.program = "autoglm " + version();
    AUTOGLM_ASSIGN_OR_RETURN(report_.source, facts(model_));
    report_.recipe = settings_.recipe.to_json();
    report_.conditions =
        eval::Conditions{eval::cpu_name(), settings_.device, settings_.compute, threads_, settings_.seed};
    report_.predicted = eval::Cost{plan_.peak_rss, plan_.bytes_after, plan_.seconds};
    report_.measured = eval::Cost{peak_rss_bytes(), pipeline.bytes_written, seconds_};
    for (const auto& [stage, seconds] : pipeline.seconds) report_.stages.push_back({stage, seconds});
    for (const auto& t : pipeline.tensors) {
      report_.passes.push_back({t.name, t.method, t.scheme, t.mse, t.cosine, t.output_error, t.note});
    }
    report_.carried_over = pipeline.carried_over;
    return ok_status();
  }

  // Takes a share of the documents away and puts it where the verification reads it.
  Status hold_back(std::vector<std::string>& documents, const fs::path& staged) {
    eval::HeldOut split = eval::hold_out(documents, kHeldOutShare, settings_.seed);
    if (split.evaluation.empty()) {
      if (settings_.evaluation.empty()) return ok_status();  // too short: the model writes its own text
      return bad_input(
          calibration_text_ +
          ": too short to be split into text for calibration and other text for evaluation; give two files");
    }
    documents = std::move(split.calibration);
    held_out_ = staged / "held_out.jsonl";
    std::ofstream file(held_out_, std::ios::binary);
    for (const std::string& text : split.evaluation) file << nlohmann::json{{"text", text}}.dump() << '\n';
    if (file.flush()) return ok_status();
    return resource_exhausted(fmt::format("{}: cannot be written", held_out_.string()));
  }

  // Runs `autoglm eval` on the staged folder; it prints the measured part of the report.
  Status verify(const fs::path& staged) {
    if (settings_.verify == "none") return ok_status();
    std::vector<std::string> arguments = {"eval",
                                          staged.string(),
                                          "--source",
                                          model_.string(),
                                          "--json",
                                          "--level",
                                          settings_.verify,
                                          "--seconds",
                                          fmt::format("{:.1f}", std::max(seconds_, kShortestVerification)),
                                          "--seed",
                                          std::to_string(settings_.seed),
                                          "--threads",
                                          std::to_string(threads_),
                                          "--device",
                                          settings_.device,
                                          "--compute",
                                          settings_.compute};
    const auto add = [&](bool wanted, std::vector<std::string> words) {
      if (wanted) arguments.insert(arguments.end(), words.begin(), words.end());
    };
    const std::string text = held_out_.empty() ? settings_.evaluation : held_out_.string();
    add(!text.empty(), {"--eval-dataset", text});
    add(settings_.max_ram > 0, {"--max-ram", std::to_string(settings_.max_ram)});
    add(settings_.max_loss >= 0, {"--max-loss", fmt::format("{}", settings_.max_loss)});
    add(!Progress::is_enabled(), {"--quiet"});
    const std::string program = options_.verifier.empty() ? "autoglm" : options_.verifier;
    AUTOGLM_ASSIGN_OR_RETURN(const auto child, api::run_child(program, arguments, cancel_));
    if (child.exit_code != 0 && child.exit_code != static_cast<int>(StatusCode::kContractBroken)) {
      return internal_error(
          fmt::format("the written files could not be measured ({}); --verify none skips it", child.error));
    }
    AUTOGLM_ASSIGN_OR_RETURN(report_.evaluation, eval::evaluation_from_json(child.out));
    if (!held_out_.empty()) {
      report_.evaluation->text.source = calibration_text_ + ", a part that calibration did not see";
      std::error_code error;
      if (!fs::remove(held_out_, error)) return internal_error(held_out_.string() + ": cannot be removed");
    }
    return ok_status();
  }

  static Result<eval::ModelFacts> facts(const fs::path& folder) {
    AUTOGLM_ASSIGN_OR_RETURN(const auto model, format::StoredModel::open(folder));
    return api::model_facts(model, folder);
  }

  const CompressOptions& options_;
  api::Settings settings_;
  CancelToken& cancel_;

  // Made by prepare().
  int threads_ = 1;
  fs::path model_;
  pass::Registry registry_;
  std::string calibration_text_;
  bool calibrated_ = false;  // some method needs calibration text
  std::optional<model::Decoder> decoder_;
  std::optional<pass::Resolved> resolved_;
  pass::Plan plan_;
  std::string output_;
  fs::path held_out_;  // in the staged folder, until it has been measured on; empty: none

  double seconds_ = 0;  // compressing took
  eval::Report report_;
};

}  // namespace

Result<CompressOutcome> compress(const CompressOptions& options, CancelToken& cancel) {
  return tensor::guarded([&]() -> Result<CompressOutcome> {
    AUTOGLM_ASSIGN_OR_RETURN(auto settings, api::settle(options));
    return Compression(options, std::move(settings), cancel).run();
  });
}

}  // namespace autoglm
