#include <autoglm/compress.h>
#include <autoglm/version.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "api/automatic.h"
#include "api/child_process.h"
#include "api/engine.h"
#include "api/facts.h"
#include "api/model_source.h"
#include "api/run_identity.h"
#include "api/self_text.h"
#include "api/settings.h"
#include "api/texts.h"
#include "compress/pass/journal.h"
#include "compress/pass/pipeline.h"
#include "compress/pass/repair.h"
#include "compress/quant/reconstruct.h"
#include "compress/quant/refine.h"
#include "compress/quant/register.h"
#include "compress/search/size_search.h"
#include "compress/tensor/bridge.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/eval/bits_picture.h"
#include "core/eval/dataset.h"
#include "core/eval/report.h"
#include "core/format/checkpoint_writer.h"
#include "core/format/display.h"
#include "core/format/file.h"
#include "core/format/stored_model.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"

namespace autoglm {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::string default_output(const fs::path& model, const std::string& name, const api::Settings& settings) {
  const std::string base = fs::path(name).filename().empty() ? fs::absolute(model).parent_path().filename().string()
                                                             : fs::path(name).filename().string();
  return base.substr(0, base.find('@')) + "-" + (settings.automatic ? "auto" : settings.recipe.scheme.to_string());
}

// What a verification that gave no measurements ended with.
Status failure_of(const api::ChildOutput& child) {
  if (child.exit_code == api::kSignalled + SIGKILL) {
    return resource_exhausted("the verification was killed, perhaps for lack of memory");
  }
  for (const auto code : {StatusCode::kInvalidArgument, StatusCode::kBadInput, StatusCode::kResourceExhausted}) {
    if (child.exit_code != static_cast<int>(code)) continue;
    const std::string prefix = fmt::format("autoglm: {}: ", to_string(code));
    return {code, child.error.substr(child.error.starts_with(prefix) ? prefix.size() : 0)};
  }
  return internal_error(fmt::format("the verification ended with exit code {}: {}", child.exit_code, child.error));
}

// One compression from settled settings to the committed folder.
class Compression {
 public:
  Compression(const CompressOptions& options, api::Settings settings, CancelToken& cancel)
      : options_(options), settings_(std::move(settings)), cancel_(cancel) {}

  Result<CompressOutcome> run() {
    AUTOGLM_RETURN_IF_ERROR(prepare());
    if (options_.dry_run) return CompressOutcome{"", plan_.to_json().dump(2), plan_.to_text(), {}, {}};
    if (searches_size()) return find_smallest();
    AUTOGLM_ASSIGN_OR_RETURN(Made made, make());
    return publish(made);
  }

 private:
  // An artifact that was written and measured, and is not in place yet.
  struct Made {
    format::CheckpointWriter writer;
    eval::Report report;
    Status verification;
    std::optional<pass::Journal> journal;  // to be removed once the artifact is in place
  };

  // By the recipe and plan of now.
  Result<Made> make() {
    const eval::Report common = report_;
    AUTOGLM_ASSIGN_OR_RETURN(auto writer,
                             format::CheckpointWriter::create(
                                 output_, {settings_.max_shard, options_.overwrite, plan_.bytes_after, &cancel_}));
    AUTOGLM_ASSIGN_OR_RETURN(std::optional<pass::Journal> journal, open_journal(writer.target()));
    const Status status = compress_into(writer, journal ? &*journal : nullptr);
    if (!status.ok()) return say_what_is_kept(status, journal);
    AUTOGLM_ASSIGN_OR_RETURN(report_.artifact, facts(writer.staging()));
    const Status verification = verify(writer);
    if (verification.code() == StatusCode::kCancelled) return say_what_is_kept(verification, journal);
    return Made{std::move(writer), std::exchange(report_, common), verification, std::move(journal)};
  }

  bool searches_size() const { return settings_.automatic && !api::has_budget(settings_); }

  // Where finished blocks are kept. None where nothing is calibrated, which takes as long as the disk does, where many
  // sizes are tried, and where the disk cannot hold the blocks twice.
  Result<std::optional<pass::Journal>> open_journal(const fs::path& target) {
    std::error_code error;
    const fs::space_info space = fs::space(target.parent_path(), error);
    const bool has_room = error || std::cmp_greater_equal(space.available, plan_.disk_bytes);
    if (plan_.memory.streaming || searches_size() || !has_room) {
      if (!has_room && options_.resume) {
        return resource_exhausted(fmt::format(
            "--resume keeps finished blocks beside the output: that takes {}, but the disk has only {} free",
            format_bytes(plan_.disk_bytes), format_bytes(static_cast<int64_t>(space.available))));
      }
      pass::Journal::clear(target);
      return std::optional<pass::Journal>();
    }
    const std::string tokens = report_.calibration ? report_.calibration->tokens_sha256 : "";
    AUTOGLM_ASSIGN_OR_RETURN(const auto run,
                             api::run_identity(settings_, decoder_->checkpoint(), plan_, tokens, threads_));
    AUTOGLM_ASSIGN_OR_RETURN(auto journal, pass::Journal::open(target, run, options_.resume));
    if (options_.resume && journal.parts() == 0) warn("--resume: no finished block was left to go on from");
    return std::optional<pass::Journal>(std::move(journal));
  }

  Status say_what_is_kept(const Status& status, const std::optional<pass::Journal>& journal) const {
    if (!options_.resume || !journal || journal->parts() == 0) return status;
    return {status.code(), fmt::format("{}; {} finished blocks are kept, the same command goes on from there",
                                       status.message(), journal->parts())};
  }

  Result<CompressOutcome> publish(Made& made) {
    CompressOutcome outcome;
    eval::Report& report = made.report;
    if (!made.verification.ok()) {
      outcome.verification = {made.verification.code(),
                              fmt::format("{}; the artifact is kept, `autoglm eval {} --source {}` measures it",
                                          made.verification.message(), made.writer.target().string(), model_.string())};
    }
    outcome.output = report.artifact.path = made.writer.target().string();
    report.warnings = warnings();
    if (!outcome.verification.ok()) report.warnings.push_back(outcome.verification.message());
    outcome.report_json = to_json(report);
    outcome.summary = fmt::format("{}\n\n{}", verdict(report), eval::summary_table({&report, 1}));
    if (!report.carried_over.empty()) {
      outcome.summary += fmt::format("\n{} tensors that no rule names were carried over untouched (report.md)\n",
                                     report.carried_over.size());
    }
    if (report.automatic) {
      outcome.summary += "\n" + eval::bits_table(*report.automatic);
      AUTOGLM_RETURN_IF_ERROR(made.writer.write_file("bits.svg", eval::bits_svg(*report.automatic)));
    }
    AUTOGLM_RETURN_IF_ERROR(made.writer.write_file("report.json", outcome.report_json));
    AUTOGLM_RETURN_IF_ERROR(made.writer.write_file("report.md", to_markdown(report)));
    AUTOGLM_RETURN_IF_ERROR(made.writer.commit());
    if (made.journal) made.journal->remove();
    if (report.evaluation && report.evaluation->contract) outcome.contract = report.evaluation->contract->status();
    return outcome;
  }

  // The smallest artifact that keeps the contract, by writing and measuring some.
  Result<CompressOutcome> find_smallest() {
    const auto [smallest, largest] = search::size_range(automatic_.sensitivity, automatic_.profile);
    const auto size_for = [&](double loss) {
      return search::size_for(automatic_.sensitivity, automatic_.profile, loss);
    };
    search::SizeSearch sizes(smallest, largest, plan_.bytes_after, size_for);
    Progress progress("finding the smallest", search::SizeSearch::kMostAttempts);
    std::optional<Made> best;
    std::vector<eval::Attempt> attempts;
    while (const auto bytes = sizes.next()) {
      AUTOGLM_RETURN_IF_ERROR(set_formats(*bytes));
      AUTOGLM_ASSIGN_OR_RETURN(Made made, make());
      if (!made.verification.ok()) return made.verification;  // not measured: nothing can be promised
      attempts.push_back(judge(made.report));
      const eval::Attempt& attempt = attempts.back();
      progress.update(static_cast<int64_t>(attempts.size()),
                      fmt::format("{}: loss {:.4f}, {}", format_bytes(attempt.bytes), attempt.loss,
                                  attempt.holds ? "within the contract" : "too much"));
      const double measured = made.report.evaluation->contract->loss;
      const bool by_kl = settings_.max_kl > 0 && measured > 0;
      sizes.tell(*bytes, attempt.holds, by_kl ? attempt.estimated_kl * settings_.max_kl / measured : 0);
      if (attempt.holds) best.emplace(std::move(made));
    }
    if (!best) return out_of_reach(attempts);
    best->report.automatic->attempts = std::move(attempts);
    return publish(*best);
  }

  static eval::Attempt judge(const eval::Report& report) {
    const eval::Contract& contract = *report.evaluation->contract;
    eval::Attempt out{.bytes = report.automatic->bytes,
                      .estimated_kl = report.automatic->estimated_kl,
                      .loss = contract.loss,
                      .holds = contract.is_certain()};
    if (report.evaluation->divergence) out.kl = report.evaluation->divergence->kl_mean;
    return out;
  }

  static Status out_of_reach(const std::vector<eval::Attempt>& attempts) {
    const auto best = std::min_element(attempts.begin(), attempts.end(),
                                       [](const auto& a, const auto& b) { return a.loss < b.loss; });
    return contract_broken(fmt::format(
        "no size that was tried keeps the contract; the closest was {} with a loss of {:.4f}. Allow more, or "
        "name more text to measure on (--eval-dataset, --verify full): few tasks prove little",
        format_bytes(best->bytes), best->loss));
  }

  Status prepare() {
    threads_ = api::use_threads(settings_.threads);
    if (options_.resume && searches_size()) {
      return invalid_argument(
          "--resume cannot go on with the search for a size that keeps a contract; --scores FILE "
          "keeps what was measured for it");
    }
    AUTOGLM_ASSIGN_OR_RETURN(model_, api::find_model(options_.model, cancel_,
                                                     options_.dry_run ? hub::Fetch::kConfig : hub::Fetch::kWeights));
    quant::register_quantizers(registry_);
    AUTOGLM_ASSIGN_OR_RETURN(const std::string calibration, api::find_calibration(settings_, model_));
    AUTOGLM_ASSIGN_OR_RETURN(const auto engine, api::decoder_options(settings_.device, settings_.compute));
    AUTOGLM_RETURN_IF_ERROR(open_model(engine));
    AUTOGLM_ASSIGN_OR_RETURN(resolved_, pass::resolve(settings_.recipe, source().config, source().layout,
                                                      &source().checkpoint, registry_, !calibration.empty()));
    warn_of_surplus_layers();
    reconstruction_.steps = settings_.recipe.reconstruct;
    reconstruction_.seed = settings_.seed;
    calibrated_ =
        !resolved_->data_free(registry_, settings_.recipe) || trains() || (settings_.automatic && !calibration.empty());
    if (trains() && calibration.empty()) {
      return invalid_argument(fmt::format("--{} needs calibration text: give --calibration-dataset",
                                          settings_.recipe.refine > 0 ? "refine" : "reconstruct"));
    }
    AUTOGLM_ASSIGN_OR_RETURN(texts_, api::assign_texts(settings_, model_, calibrated_ ? calibration : ""));
    AUTOGLM_RETURN_IF_ERROR(choose_output(calibration));
    AUTOGLM_RETURN_IF_ERROR(load_tokenizer());
    AUTOGLM_RETURN_IF_ERROR(api::follow_set(texts_, source().config.max_position_embeddings, settings_));
    if (const int64_t most = source().config.max_position_embeddings;
        calibrated_ && most > 0 && settings_.calibration_length > most) {
      warn(fmt::format("calibration sequences have {} tokens, the model's most, instead of {}", most,
                       settings_.calibration_length));
      settings_.calibration_length = most;
    }
    if (settings_.automatic) AUTOGLM_RETURN_IF_ERROR(choose_formats());
    AUTOGLM_RETURN_IF_ERROR(make_plan(engine.compute));
    return settings_.automatic || options_.dry_run ? ok_status() : read_texts();
  }

  // An embedding or head that is to be kept is no choice.
  void keep_what_was_named() {
    const pass::Recipe& given = settings_.recipe;
    for (const pass::Decision& decision : resolved_->decisions) {
      const format::Role role = decision.module.role;
      const bool kept = (role == format::Role::kEmbedding && settings_.embedding_given && !given.embedding) ||
                        (role == format::Role::kHead && settings_.head_given && !given.head);
      if (kept) settings_.recipe.ignore.push_back("^" + search::quoted(decision.module.name) + "$");
    }
  }

  // Measures what formats would cost, and takes those that fit the budget, or a first guess for a contract.
  Status choose_formats() {
    if (!decoder_) return invalid_argument("a budget needs the model's weights: its config.json alone is not enough");
    if (!calibrated_) return invalid_argument("a budget needs calibration text: give --calibration-dataset");
    const auto start = Clock::now();
    AUTOGLM_RETURN_IF_ERROR(read_texts());
    keep_what_was_named();
    AUTOGLM_ASSIGN_OR_RETURN(const auto measured_on, training_source());
    AUTOGLM_ASSIGN_OR_RETURN(automatic_,
                             api::measure_for_budget(settings_, measured_on, registry_, calibration_, cancel_));
    open_recipe_ = settings_.recipe;
    searching_ = seconds_since(start);
    AUTOGLM_ASSIGN_OR_RETURN(const int64_t bytes, api::first_budget(settings_, automatic_));
    return take_formats(bytes);
  }

  // The best formats within `bytes`, as the recipe and what it means.
  Status take_formats(int64_t bytes) {
    AUTOGLM_ASSIGN_OR_RETURN(auto chosen, search::allocate(automatic_.sensitivity, bytes, automatic_.profile));
    std::optional<eval::Swaps> swaps;
    if (settings_.swaps > 0 && !searches_size() && !options_.dry_run) {
      const auto start = Clock::now();
      AUTOGLM_ASSIGN_OR_RETURN(const auto source, training_source());
      AUTOGLM_ASSIGN_OR_RETURN(const auto swapped,
                               api::swap_formats(settings_, open_recipe_, source, registry_, automatic_, chosen, bytes,
                                                 calibration_, fs::absolute(output_).parent_path(), cancel_));
      chosen = swapped.allocation;
      swaps = eval::Swaps{swapped.measurements, swapped.kl_before, swapped.kl_after};
      swapping_ = seconds_since(start);
    }
    report_.automatic = describe(chosen, bytes);
    report_.automatic->swaps = swaps;
    settings_.recipe = search::with_allocation(open_recipe_, automatic_.sensitivity, chosen);
    AUTOGLM_ASSIGN_OR_RETURN(resolved_, pass::resolve(settings_.recipe, source().config, source().layout,
                                                      &source().checkpoint, registry_, true));
    return ok_status();
  }

  Status set_formats(int64_t bytes) {
    AUTOGLM_RETURN_IF_ERROR(take_formats(bytes));
    return make_plan(decoder_->options().compute);
  }

  eval::AutomaticBits describe(const search::Allocation& chosen, int64_t budget) const {
    eval::AutomaticBits out{.profile = std::string(to_string(automatic_.profile)),
                            .budget_bytes = budget,
                            .bytes = chosen.bytes,
                            .estimated_kl = chosen.loss,
                            .tokens = automatic_.sensitivity.tokens,
                            .formats = {},
                            .curve = {},
                            .attempts = {},
                            .swaps = {}};
    for (const search::Point& point : search::size_loss_curve(automatic_.sensitivity, automatic_.profile)) {
      out.curve.push_back({point.bytes, point.loss});
    }
    for (size_t i = 0; i < chosen.choices.size(); ++i) {
      const search::Group& group = automatic_.sensitivity.groups[i];
      const search::Candidate& format = group.candidates[chosen.choices[i]];
      const double bits = 8.0 * static_cast<double>(format.bytes) / static_cast<double>(group.parameters);
      out.formats.push_back({group.name, format.scheme, format.bytes, bits, format.loss});
    }
    return out;
  }

  // The source as sensitivities and training read it, whatever blocks are run in.
  Result<model::Decoder> training_source() const {
    return model::Decoder::open(model_, {.compute = at::kFloat, .device = at::kCPU});
  }

  Status choose_output(const std::string& calibration) {
    output_ = options_.output.empty() ? default_output(model_, options_.model, settings_) : options_.output;
    const fs::path scores = settings_.scores.empty() ? "" : fs::absolute(settings_.scores).parent_path();
    for (const fs::path& input : {model_, fs::path(calibration), fs::path(settings_.evaluation), scores}) {
      if (input.empty() || !format::lies_in(input, output_)) continue;
      return invalid_argument(fmt::format("{}: the output would replace {}, which is in use; name another folder",
                                          output_, format::display_path(input)));
    }
    return ok_status();
  }

  // A plan needs config.json alone; where there are weight files too, they are read.
  Status open_model(const model::DecoderOptions& engine) {
    if (options_.dry_run && !format::Checkpoint::is_in(model_)) {
      AUTOGLM_ASSIGN_OR_RETURN(described_, format::StoredModel::describe_config(model_));
      return ok_status();
    }
    AUTOGLM_ASSIGN_OR_RETURN(decoder_, model::Decoder::open(model_, engine));
    return ok_status();
  }

  const format::StoredModel& source() const { return decoder_ ? decoder_->stored() : *described_; }

  void warn_of_surplus_layers() const {
    const auto surplus = source().layout.surplus_layers(source().config, source().checkpoint);
    if (surplus.empty()) return;
    warn(fmt::format("{}: num_hidden_layers is {}, but the files hold layer {} too; it is carried over, not compressed",
                     (model_ / "config.json").string(), source().config.num_hidden_layers, fmt::join(surplus, ", ")));
  }

  // A broken tokenizer is found before the work, here or where the verification would read it.
  Status load_tokenizer() {
    if (!calibrated_ && settings_.verify == "none") return ok_status();
    const bool optional = (options_.dry_run && !settings_.automatic) || (!calibrated_ && texts_.evaluation.empty());
    if (optional && !tokenizer::Tokenizer::find(model_)) return ok_status();
    AUTOGLM_ASSIGN_OR_RETURN(tokenizer_, tokenizer::Tokenizer::load(model_));
    return ok_status();
  }

  // Without --max-ram the plan is held to what the machine has; a dry run then says so where that is too little.
  Status make_plan(at::ScalarType compute) {
    pass::PlanOptions how{
        .max_ram = api::memory_limit(settings_.max_ram),
        .max_shard_bytes = settings_.max_shard,
        .sequences = calibrated_ ? settings_.calibration_samples : 0,
        .length = calibrated_ ? settings_.calibration_length : 0,
        .compute = compute,
        .threads = threads_,
    };
    const auto make = [&] {
      return pass::make_plan(settings_.recipe, registry_, *resolved_, &source().checkpoint, how);
    };
    auto plan = make();
    std::string note;
    if (plan.status().code() == StatusCode::kResourceExhausted && settings_.max_ram == 0) {
      note = fmt::format("this machine has {} of memory free, which is the bound where --max-ram names none",
                         format_bytes(how.max_ram));
      if (!options_.dry_run) return plan.status().with_context(note);
      how.max_ram = 0;
      plan = make();
    }
    AUTOGLM_ASSIGN_OR_RETURN(plan_, std::move(plan));
    AUTOGLM_RETURN_IF_ERROR(plan_other_phases(how));
    if (!note.empty()) plan_.notes.push_back(note + ": too little for this");
    if (described_) {
      plan_.notes.emplace_back(
          "planned from config.json alone: what the weight files hold beside the decoder (vision tower, MTP layers) is "
          "not counted");
    }
    return ok_status();
  }

  // Sensitivities come before the pipeline and training after it: the largest need counts.
  Status plan_other_phases(const pass::PlanOptions& how) {
    if (!decoder_) return ok_status();
    if (texts_.calibration == api::kSelf)
      AUTOGLM_RETURN_IF_ERROR(plan_part("writing text", api::self_text_bytes(*decoder_, how.length), how));
    if (automatic_.measured) {
      AUTOGLM_RETURN_IF_ERROR(plan_part("sensitivities", search::sensitivity_bytes(*decoder_, {}), how));
    }
    const int64_t program = plan_.memory_parts.front().second;
    const int64_t free = how.max_ram > 0 ? how.max_ram - program : INT64_MAX;
    if (settings_.recipe.reconstruct > 0) {
      // What does not fit of the states goes to disk.
      reconstruction_.state_bytes = 0;
      const int64_t others = quant::reconstruct_bytes(*decoder_, how.sequences, how.length, reconstruction_);
      reconstruction_.state_bytes = std::max<int64_t>(0, free - others);
      AUTOGLM_RETURN_IF_ERROR(plan_part(
          "reconstruction", quant::reconstruct_bytes(*decoder_, how.sequences, how.length, reconstruction_), how));
      plan_.seconds += pass::estimated_seconds(
          quant::reconstruct_flops(*decoder_, how.sequences, how.length, reconstruction_), threads_);
    }
    if (settings_.recipe.refine == 0) return ok_status();
    plan_.seconds +=
        pass::estimated_seconds(quant::refine_flops(*decoder_, how.sequences, how.length, refine_options()), threads_);
    return plan_part("refinement", quant::refine_bytes(*decoder_, how.sequences, how.length, refine_options()), how);
  }

  Status plan_part(const char* name, int64_t bytes, const pass::PlanOptions& how) {
    const auto program = plan_.memory_parts.front();
    if (program.second + bytes > plan_.peak_rss) {
      plan_.memory_parts = {program, {name, bytes}};
      plan_.peak_rss = program.second + bytes;
    }
    if (how.max_ram == 0 || program.second + bytes <= how.max_ram) return ok_status();
    return resource_exhausted(
        fmt::format("{} needs {} of memory, but --max-ram allows {}; leave it out, or calibrate on fewer or shorter "
                    "sequences",
                    name, format_bytes(program.second + bytes), format_bytes(how.max_ram)));
  }

  bool trains() const { return settings_.recipe.reconstruct > 0 || settings_.recipe.refine > 0; }

  Status compress_into(format::CheckpointWriter& writer, const pass::Journal* journal) {
    const auto start = Clock::now();
    AUTOGLM_RETURN_IF_ERROR(hold_out(writer));
    const pass::PipelineInput input{&settings_.recipe, &registry_,   &*resolved_, &plan_,
                                    &*decoder_,        calibration_, journal,     {}};
    AUTOGLM_ASSIGN_OR_RETURN(const auto pipeline, pass::run_pipeline(input, writer, cancel_));
    pass::warn_of_losses(pipeline.tensors);
    AUTOGLM_RETURN_IF_ERROR(writer.finish());
    AUTOGLM_RETURN_IF_ERROR(train(writer.staging(), journal));
    seconds_ = seconds_since(start);

    report_.program = "autoglm " + version();
    AUTOGLM_ASSIGN_OR_RETURN(report_.source, facts(model_));
    report_.recipe = settings_.recipe.to_json();
    report_.conditions =
        eval::Conditions{eval::cpu_name(), settings_.device, settings_.compute, threads_, settings_.seed};
    report_.predicted = eval::Cost{plan_.peak_rss, plan_.bytes_after, plan_.seconds};
    report_.measured = eval::Cost{peak_rss_bytes(), pipeline.bytes_written, seconds_};
    for (const auto& [stage, seconds] : pipeline.seconds) report_.stages.push_back({stage, seconds});
    if (searching_ > 0) report_.stages.push_back({"measuring sensitivity", searching_});
    if (swapping_ > 0) report_.stages.push_back({"measuring swaps", swapping_});
    if (reconstructing_ > 0) report_.stages.push_back({"reconstructing", reconstructing_});
    if (refining_ > 0) report_.stages.push_back({"refining", refining_});
    for (const auto& t : pipeline.tensors) {
      report_.passes.push_back({t.name, t.method, t.scheme, t.mse, t.cosine, t.output_error, t.note});
    }
    report_.carried_over = pipeline.carried_over;
    return ok_status();
  }

  // Trains what costs no bytes in the files that were written.
  Status train(const fs::path& staged, const pass::Journal* journal) {
    if (!trains()) return ok_status();
    const bool any = std::any_of(resolved_->decisions.begin(), resolved_->decisions.end(), [](const auto& decision) {
      return decision.module.layer >= 0 && decision.scheme && !decision.scheme->cast;
    });
    if (!any) {
      warn("no block has integers, so --reconstruct and --refine have nothing to train");
      return ok_status();
    }
    AUTOGLM_ASSIGN_OR_RETURN(const auto source, training_source());
    if (settings_.recipe.reconstruct > 0) {
      const auto start = Clock::now();
      AUTOGLM_ASSIGN_OR_RETURN(const auto written, model::Decoder::open(staged, source.options()));
      reconstruction_.scratch = staged.parent_path();
      reconstruction_.journal = journal;
      AUTOGLM_ASSIGN_OR_RETURN(const auto blocks,
                               quant::reconstruct(source, written, calibration_, reconstruction_, cancel_));
      reconstructing_ = seconds_since(start);
      for (const auto& block : blocks) {
        report_.reconstruction.push_back({block.layer, block.error_before, block.error_after, block.kept});
      }
    }
    if (settings_.recipe.refine == 0) return ok_status();
    const auto start = Clock::now();
    AUTOGLM_ASSIGN_OR_RETURN(const auto written, model::Decoder::open(staged, source.options()));
    AUTOGLM_ASSIGN_OR_RETURN(const auto done, quant::refine(source, written, calibration_, refine_options(), cancel_));
    refining_ = seconds_since(start);
    report_.refinement =
        eval::Refinement{settings_.recipe.refine, done.steps, done.kl_before, done.kl_after, done.kept};
    return ok_status();
  }

  quant::RefineOptions refine_options() const { return {.epochs = settings_.recipe.refine, .seed = settings_.seed}; }

  // The sequences to calibrate on, and the text that is held back for the verification.
  Status read_texts() {
    const auto chat = tokenizer::ChatTemplate::load(model_);  // plain text needs none; read_texts says when one lacks
    AUTOGLM_ASSIGN_OR_RETURN(auto split, api::read_texts(texts_, chat.ok() ? &*chat : nullptr, settings_.seed));
    held_back_ = std::move(split.evaluation);
    const std::unique_ptr<tokenizer::Tokenizer> tokenizer = std::move(tokenizer_);
    if (!calibrated_) return ok_status();
    AUTOGLM_ASSIGN_OR_RETURN(calibration_, read_sequences(split.calibration, *tokenizer));
    return record_calibration();
  }

  Result<std::vector<eval::Tokens>> read_sequences(const std::vector<std::string>& documents,
                                                   const tokenizer::Tokenizer& tokenizer) {
    const int64_t count = settings_.calibration_samples, length = settings_.calibration_length;
    if (texts_.set) return api::read_set(texts_.calibration, tokenizer, source().config.vocab_size, count);
    if (texts_.calibration != api::kSelf) {
      auto drawn = eval::draw_sequences(documents, tokenizer, {count, length, settings_.seed});
      if (!drawn.ok()) return drawn.status().with_context(texts_.calibration);
      if (std::ssize(*drawn) < count) {
        warn(fmt::format("{}: has {} sequences of {} tokens, not {}; all are taken",
                         format::display_path(texts_.calibration), drawn->size(), length, count));
      }
      return drawn;
    }
    if (!decoder_)
      return invalid_argument("text by the model itself needs its weights: config.json alone is not enough");
    return api::write_self_text(*decoder_, tokenizer, {count, length, settings_.seed, settings_.max_ram}, cancel_);
  }

  Status record_calibration() {
    eval::CalibrationUse use{{texts_.calibration, static_cast<int64_t>(calibration_.size()),
                              settings_.calibration_length, texts_.set ? texts_.set->seed : settings_.seed}};
    for (const eval::Tokens& sequence : calibration_) use.tokens += static_cast<int64_t>(sequence.size());
    use.tokens_sha256 = eval::tokens_hash(calibration_);
    if (texts_.set) {
      AUTOGLM_ASSIGN_OR_RETURN(use.set_sha256, format::sha256_of_file(texts_.calibration, &cancel_));
    }
    report_.calibration = std::move(use);
    return ok_status();
  }

  // Puts the held-back text where the verification reads it.
  Status hold_out(const format::CheckpointWriter& writer) {
    if (held_back_.empty()) return ok_status();
    held_out_ = writer.staging() / "held_out.jsonl";
    std::ofstream file(held_out_, std::ios::binary);
    for (const std::string& text : held_back_) file << nlohmann::json{{"text", text}}.dump() << '\n';
    return file.flush() ? ok_status() : resource_exhausted(fmt::format("{}: cannot be written", held_out_.string()));
  }

  // Has the staged folder measured. What goes wrong does not undo the compression, but for cancellation.
  Status verify(const format::CheckpointWriter& writer) {
    if (settings_.verify == "none") return ok_status();
    Status status = measure(writer.staging());
    std::error_code error;
    if (!held_out_.empty() && !fs::remove(held_out_, error)) {
      return internal_error(held_out_.string() + ": cannot be removed");
    }
    if (status.ok() || status.code() == StatusCode::kCancelled) return status;
    return status.with_context("not measured");
  }

  // Runs `autoglm eval` on the staged folder; it prints the measured part of the report.
  Status measure(const fs::path& staged) {
    std::vector<std::string> arguments = {"eval",
                                          staged.string(),
                                          "--source",
                                          model_.string(),
                                          "--json",
                                          "--level",
                                          settings_.verify,
                                          "--seconds",
                                          fmt::format("{:.3f}", std::max(seconds_, 0.001)),
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
    const std::string text = held_out_.empty() ? texts_.evaluation : held_out_.string();
    add(!text.empty(), {"--eval-dataset", text});
    add(settings_.max_ram > 0, {"--max-ram", std::to_string(settings_.max_ram)});
    add(settings_.max_loss >= 0, {"--max-loss", fmt::format("{}", settings_.max_loss)});
    add(settings_.max_kl > 0, {"--max-kl", fmt::format("{}", settings_.max_kl)});
    add(!Progress::is_enabled(), {"--quiet"});
    const std::string program = options_.verifier.empty() ? "autoglm" : options_.verifier;
    AUTOGLM_ASSIGN_OR_RETURN(const auto child, api::run_child(program, arguments, cancel_));
    if (child.exit_code != 0 && child.exit_code != static_cast<int>(StatusCode::kContractBroken)) {
      return failure_of(child);
    }
    AUTOGLM_ASSIGN_OR_RETURN(report_.evaluation, eval::evaluation_from_json(child.out));
    if (!held_out_.empty()) {
      const std::string& whole = texts_.evaluation.empty() ? texts_.calibration : texts_.evaluation;
      report_.evaluation->text.source = whole + ", a part that calibration did not see";
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
  bool calibrated_ = false;  // some method needs calibration text
  api::Texts texts_;
  std::unique_ptr<tokenizer::Tokenizer> tokenizer_;  // until the text is read
  std::optional<model::Decoder> decoder_;
  std::optional<format::StoredModel> described_;  // in its place, for a plan from config.json alone
  std::optional<pass::Resolved> resolved_;
  api::Automatic automatic_;  // of a budget or a contract
  pass::Recipe open_recipe_;  // before formats were chosen
  quant::ReconstructOptions reconstruction_;
  pass::Plan plan_;
  std::string output_;
  std::vector<eval::Tokens> calibration_;
  std::vector<std::string> held_back_;  // text for the verification, until it is written
  fs::path held_out_;                   // in the staged folder, until it has been measured on; empty: none

  double seconds_ = 0;                        // compressing took
  double reconstructing_ = 0, refining_ = 0;  // of it
  double searching_ = 0, swapping_ = 0;       // before it
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
