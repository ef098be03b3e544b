#include "core/eval/evaluate.h"

#include <autoglm/evaluate.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>

#include "api/engine.h"
#include "api/facts.h"
#include "api/model_source.h"
#include "api/texts.h"
#include "compress/calibrate/self_sample.h"
#include "compress/model/generator.h"
#include "compress/model/torch_scorer.h"
#include "compress/tensor/bridge.h"
#include "core/base/memory.h"
#include "core/base/suggest.h"
#include "core/eval/dataset.h"
#include "core/eval/report.h"
#include "core/eval/tasks.h"
#include "core/format/stored_model.h"
#include "runtime/score/runtime_scorer.h"

namespace autoglm {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int64_t kTextLength = 512;                        // tokens of a window of held-out text
constexpr int64_t kSampleLength = 128, kSampleBatches = 8;  // tokens and batches of text the model writes itself
constexpr int64_t kTrialTokens = 4;                         // of a sequence, to time the writing
constexpr double kSampleShare = 0.4;                        // of the time allowed, for loading the writer and writing
constexpr int64_t kWorkingBytes = 400'000'000;              // activations, logits and the program, beside the weights

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// One evaluation: what is measured, on what, with which memory.
class Measurement {
 public:
  Measurement(const EvaluateOptions& options, CancelToken& cancel) : options_(options), cancel_(cancel) {}

  Result<EvaluateOutcome> run() {
    AUTOGLM_RETURN_IF_ERROR(open());
    AUTOGLM_RETURN_IF_ERROR(choose_text());
    AUTOGLM_RETURN_IF_ERROR(choose_tasks());
    const int64_t weights = weight_limit();
    AUTOGLM_ASSIGN_OR_RETURN(const auto compressed, scorer_of_model(weights));
    const auto source = source_decoder_ ? model::make_torch_scorer(*source_decoder_, {.max_bytes = weights}) : nullptr;

    inputs_.tokenizer = tokenizer_.get();
    inputs_.stop = decoder_->config().eos_token_ids;
    inputs_.compressed_files = &*files_;
    inputs_.source_files = source_files_ ? &*source_files_ : nullptr;
    eval::EvaluateOptions how{
        .level = level_, .seconds = std::max(0.0, options_.seconds - seconds_since(start_)), .seed = options_.seed};
    if (options_.max_loss >= 0) how.max_loss = options_.max_loss;
    if (options_.max_kl > 0) how.max_kl = options_.max_kl;
    AUTOGLM_ASSIGN_OR_RETURN(auto evaluation, eval::evaluate(source.get(), *compressed, inputs_, how, cancel_));

    evaluation.seconds = seconds_since(start_);  // loading and sampling are part of it
    if (evaluation.seconds_allowed) evaluation.seconds_allowed = options_.seconds;
    evaluation.text.source = text_source_;
    evaluation.text.seed = options_.seed;
    evaluation.conditions = {eval::cpu_name(), options_.device, options_.compute,
                             threads_,         options_.seed,   options_.engine};
    evaluation.notes.insert(evaluation.notes.begin(), notes_.begin(), notes_.end());
    return outcome(std::move(evaluation));
  }

 private:
  Status open() {
    AUTOGLM_ASSIGN_OR_RETURN(level_, eval::parse_verify_level(options_.level));
    if (level_ == eval::VerifyLevel::kNone)
      return invalid_argument("there is nothing to evaluate at level 'none'; give fast or full");
    if (!(options_.seconds > 0))
      return invalid_argument(fmt::format("--seconds is {}; give more than 0", options_.seconds));
    if (options_.max_loss >= 0 && options_.max_kl > 0)
      return invalid_argument("--max-loss and --max-kl are two contracts; give one");
    if ((options_.max_loss >= 0 || options_.max_kl > 0) && options_.source.empty()) {
      return invalid_argument(
          fmt::format("--max-{} needs --source to compare with", options_.max_kl > 0 ? "kl" : "loss"));
    }
    const std::vector<std::string> engines = {"torch", "runtime", "runtime-int8"};
    if (std::find(engines.begin(), engines.end(), options_.engine) == engines.end())
      return invalid_argument(unknown_word("engine", options_.engine, engines));
    threads_ = api::use_threads(options_.threads);
    AUTOGLM_ASSIGN_OR_RETURN(const auto engine, api::decoder_options(options_.device, options_.compute));
    AUTOGLM_ASSIGN_OR_RETURN(folder_, api::find_model(options_.model, cancel_));
    AUTOGLM_ASSIGN_OR_RETURN(files_, format::StoredModel::open(folder_));
    AUTOGLM_ASSIGN_OR_RETURN(decoder_, model::Decoder::open(folder_, engine));
    if (!options_.source.empty()) {
      AUTOGLM_ASSIGN_OR_RETURN(reference_, api::find_model(options_.source, cancel_));
      AUTOGLM_ASSIGN_OR_RETURN(source_files_, format::StoredModel::open(reference_));
      AUTOGLM_ASSIGN_OR_RETURN(source_decoder_, model::Decoder::open(reference_, engine));
      if (source_decoder_->config().vocab_size != decoder_->config().vocab_size) {
        return bad_input(fmt::format("{} was not made from {}: their vocabularies have {} and {} tokens",
                                     folder_.string(), reference_.string(), decoder_->config().vocab_size,
                                     source_decoder_->config().vocab_size));
      }
    } else {
      reference_ = folder_;
    }
    return ok_status();
  }

  Result<std::unique_ptr<eval::Scorer>> scorer_of_model(int64_t weights) {
    if (options_.engine == "torch") return model::make_torch_scorer(*decoder_, {.max_bytes = weights});
    const bool is_int8 = options_.engine == "runtime-int8";
    notes_.push_back(fmt::format("the model was run by the {}; device and type are those of the source, by torch",
                                 is_int8 ? "runtime with 8-bit inputs" : "runtime"));
    return engine::make_runtime_scorer(folder_,
                                       {.compute = is_int8 ? kernels::Compute::kInt8 : kernels::Compute::kFloat,
                                        .threads = threads_,
                                        .max_ram = current_rss_bytes() + weights + kWorkingBytes / 2},
                                       &cancel_);
  }

  // Weights that one scorer may hold: two models may be in memory at once.
  int64_t weight_limit() const {
    const int64_t left = api::memory_limit(options_.max_ram) - current_rss_bytes() - kWorkingBytes;
    return std::max<int64_t>(1, source_decoder_ ? left / 2 : left);
  }

  // Text that was named, else the folder's task file, else what the source model writes itself.
  Status choose_text() {
    const auto own_tasks = eval::find_tasks(reference_);
    if (options_.evaluation.empty() && !tokenizer::Tokenizer::find(reference_)) {
      notes_.push_back("the source has no tokenizer: no text was read and no tasks were asked");
      return sample_text();
    }
    AUTOGLM_ASSIGN_OR_RETURN(tokenizer_, tokenizer::Tokenizer::load(reference_));
    if (options_.evaluation.empty() && !own_tasks) return sample_text();
    text_source_ = options_.evaluation.empty() ? own_tasks->string() : options_.evaluation;
    auto chat = tokenizer::ChatTemplate::load(reference_);
    AUTOGLM_ASSIGN_OR_RETURN(const auto documents, eval::read_documents(text_source_, chat.ok() ? &*chat : nullptr));
    const int64_t length = std::min(kTextLength, decoder_->config().max_position_embeddings);
    const eval::SequenceOptions how{
        .count = eval::kFullTokens / length, .length = length, .seed = options_.seed, .allow_short = true};
    auto sequences = eval::draw_sequences(documents, *tokenizer_, how);
    if (!sequences.ok()) return sequences.status().with_context(text_source_);
    inputs_.sequences = std::move(sequences).value();
    return ok_status();
  }

  Status sample_text() {
    const model::Decoder& author = source_decoder_ ? *source_decoder_ : *decoder_;
    text_source_ = source_decoder_ ? "sampled from the source model" : "sampled from the model itself";
    auto generator = model::Generator::create(author, weight_limit(), &cancel_);
    if (generator.status().code() == StatusCode::kResourceExhausted) {
      text_source_ = "";
      notes_.push_back(
          "no text was given and the model is too large to write its own within the memory allowed: "
          "the stored weights alone were compared; --eval-dataset names text");
      return ok_status();
    }
    AUTOGLM_RETURN_IF_ERROR(generator.status());
    calibrate::SelfSampleOptions how{.seed = options_.seed};
    if (tokenizer_) how.start = api::start_of_text(*tokenizer_);
    how.length = std::min(kSampleLength, author.config().max_position_embeddings);
    how.count = kSampleBatches * how.batch;
    if (level_ == eval::VerifyLevel::kFast) AUTOGLM_RETURN_IF_ERROR(fit_sample(*generator, how));
    AUTOGLM_ASSIGN_OR_RETURN(inputs_.sequences, calibrate::self_sample(*generator, how, cancel_));
    return ok_status();
  }

  // Writes a few tokens to see how long they take.
  Status fit_sample(model::Generator& generator, calibrate::SelfSampleOptions& how) {
    calibrate::SelfSampleOptions trial = how;
    const auto begun = static_cast<int64_t>(how.start.size()) + 1;
    trial.count = trial.batch;
    trial.length = std::min(how.length, begun + kTrialTokens);
    const auto before = Clock::now();
    AUTOGLM_RETURN_IF_ERROR(calibrate::self_sample(generator, trial, cancel_).status());
    const double step = seconds_since(before) / static_cast<double>(std::max<int64_t>(1, trial.length - begun));
    calibrate::shorten(how, step, options_.seconds * kSampleShare - seconds_since(start_));
    return ok_status();
  }

  Status choose_tasks() {
    const auto file = eval::find_tasks(reference_);
    if (!file || !tokenizer_) return ok_status();
    auto chat = tokenizer::ChatTemplate::load(reference_);
    AUTOGLM_ASSIGN_OR_RETURN(inputs_.tasks, eval::read_tasks(*file, chat.ok() ? &*chat : nullptr));
    return ok_status();
  }

  EvaluateOutcome outcome(eval::Evaluation evaluation) const {
    const Status contract = evaluation.contract ? evaluation.contract->status() : ok_status();
    eval::Report report;
    report.artifact = api::model_facts(*files_, folder_);
    if (source_files_) report.source = api::model_facts(*source_files_, reference_);
    std::string json = eval::to_json(evaluation);
    report.evaluation = std::move(evaluation);
    return {std::move(json), fmt::format("{}\n\n{}", eval::verdict(report), eval::summary_table({&report, 1})),
            contract};
  }

  const EvaluateOptions& options_;
  CancelToken& cancel_;
  Clock::time_point start_ = Clock::now();
  int threads_ = 1;
  eval::VerifyLevel level_ = eval::VerifyLevel::kFast;
  fs::path folder_, reference_;  // the model measured; the source, or the model itself without one
  std::optional<format::StoredModel> files_, source_files_;
  std::optional<model::Decoder> decoder_, source_decoder_;
  std::unique_ptr<tokenizer::Tokenizer> tokenizer_;  // null where the folder has none
  eval::EvaluateInputs inputs_;
  std::string text_source_;
  std::vector<std::string> notes_;
};

}  // namespace

Result<EvaluateOutcome> evaluate(const EvaluateOptions& options, CancelToken& cancel) {
  return tensor::guarded([&] { return Measurement(options, cancel).run(); });
}

}  // namespace autoglm
