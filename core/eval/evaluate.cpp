#include "core/eval/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <initializer_list>
#include <limits>

#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/base/suggest.h"

namespace autoglm::eval {
namespace {

constexpr double kSafety = 0.9;                    // of the time that is left, what is planned for
constexpr int64_t kTokensAtOnce = 16'384;          // given to a scorer together: it may hold a hidden state for each
constexpr int64_t kTasksAtOnce = 128;              // between two looks at the clock
constexpr int64_t kTaskGrowth = 4;                 // answers differ in length: a few say little about many
constexpr int64_t kFirstWeightBytes = 64'000'000;  // of the source, compared to find out the speed

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// n with only its three highest bits, so that runs seldom differ; `all` where n reaches it.
int64_t stable_count(int64_t n, int64_t all) {
  if (n >= all) return all;
  const int low_bits = std::max(0, static_cast<int>(std::bit_width(static_cast<uint64_t>(n))) - 3);
  return n >> low_bits << low_bits;
}

/// How many units cost `seconds_each` fit into `seconds`.
int64_t how_many(double seconds, double seconds_each, int64_t most) {
  if (seconds <= 0) return 0;
  const double count = seconds_each > 0 ? seconds / seconds_each : static_cast<double>(most);
  return count >= static_cast<double>(most) ? most : static_cast<int64_t>(count);
}

/// How far to go from `done` where `affordable` more fit: about half of them, as the pace may change, so that the clock
/// is looked at again. `done` or less: none fit.
int64_t next_stop(int64_t done, int64_t affordable, int64_t all) {
  const int64_t half = stable_count(done + affordable / 2, all);
  return half > done ? half : stable_count(done + affordable, all);
}

class Evaluator {
 public:
  Evaluator(Scorer* source, Scorer& compressed, const EvaluateInputs& inputs, const EvaluateOptions& options,
            CancelToken& cancel)
      : source_(source),
        compressed_(compressed),
        inputs_(inputs),
        options_(options),
        cancel_(cancel),
        now_(options.now ? options.now : steady_seconds),
        start_(now_()) {}

  Result<Evaluation> run() {
    out_.level = std::string(to_string(options_.level));
    const bool fast = options_.level == VerifyLevel::kFast;
    if (fast) out_.seconds_allowed = options_.seconds;
    if (inputs_.compressed_files != nullptr)
      out_.sizes = measure_sizes(*inputs_.compressed_files, inputs_.source_files);
    if (options_.level != VerifyLevel::kNone) {
      AUTOGLM_RETURN_IF_ERROR(measure());
      finish_text();
      finish_latency();
      finish_tasks();
    }
    if (options_.max_loss || options_.max_kl) AUTOGLM_RETURN_IF_ERROR(judge());
    out_.seconds = now_() - start_;
    if (const int64_t peak = peak_rss_bytes(); peak > 0) out_.peak_rss_bytes = peak;
    return std::move(out_);
  }

 private:
  /// A kind of work and its share of the time; what one leaves is the next one's.
  struct Work {
    bool wanted;
    double share;
    Status (Evaluator::*measure)();
  };

  Status measure() {
    const bool text = !inputs_.sequences.empty();
    const bool tasks = !inputs_.tasks.empty() && inputs_.tokenizer != nullptr;
    const bool weights = inputs_.source_files != nullptr && inputs_.compressed_files != nullptr;
    AUTOGLM_RETURN_IF_ERROR(share_time({{text, 4, &Evaluator::measure_text},
                                        {true, 1, &Evaluator::measure_latency},
                                        {tasks, 4, &Evaluator::measure_tasks},
                                        {weights, 1, &Evaluator::measure_weights}}));
    if (!bounded()) return ok_status();
    return share_time({{true, 1, &Evaluator::measure_latency},  // what is left goes to what was shortened
                       {text, 2, &Evaluator::measure_text},
                       {tasks, 2, &Evaluator::measure_tasks},
                       {text, 0, &Evaluator::measure_text}});
  }

  Status share_time(std::initializer_list<Work> works) {
    const double begin = now_(), seconds = start_ + options_.seconds - begin;
    double shares = 0, used = 0;
    for (const Work& work : works) shares += work.wanted ? work.share : 0;
    for (const Work& work : works) {
      if (!work.wanted) continue;
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      used += work.share;
      deadline_ = bounded() ? begin + seconds * used / shares : std::numeric_limits<double>::infinity();
      AUTOGLM_RETURN_IF_ERROR((this->*work.measure)());
    }
    return ok_status();
  }

  Status judge() {
    if (!out_.tasks && !out_.divergence && !text_lacks_.empty())
      return resource_exhausted("the loss cannot be measured: " + text_lacks_);
    auto contract = options_.max_kl ? check_divergence(*options_.max_kl, out_.divergence)
                                    : check_contract(*options_.max_loss, out_.tasks, out_.divergence);
    AUTOGLM_ASSIGN_OR_RETURN(out_.contract, std::move(contract));
    return ok_status();
  }

  double left() const { return (deadline_ - now_()) * kSafety; }
  bool bounded() const { return options_.level == VerifyLevel::kFast; }

  void note(std::string text) { out_.notes.push_back(std::move(text)); }

  // ---- text

  /// Compares on some sequences and sets the pace.
  Status add_text(const std::vector<Tokens>& sequences) {
    const double before = now_();
    if (source_ != nullptr) {
      AUTOGLM_RETURN_IF_ERROR(meter_.add(*source_, compressed_, sequences, cancel_));
    } else {
      AUTOGLM_ASSIGN_OR_RETURN(const double value, perplexity(compressed_, sequences, cancel_));
      for (const Tokens& s : sequences) {
        const auto positions = static_cast<double>(std::max<size_t>(s.size(), 1) - 1);
        nll_sum_ += std::log(value) * positions;
        positions_ += positions;
      }
    }
    int64_t tokens = 0;
    for (const Tokens& s : sequences) {
      tokens += static_cast<int64_t>(s.size());
      out_.text.length = std::max(out_.text.length, static_cast<int64_t>(s.size()));
      ++out_.text.sequences;
    }
    seconds_per_token_ = (now_() - before) / static_cast<double>(tokens);
    return ok_status();
  }

  /// The first `tokens` of the first sequence, instead of all that was compared.
  Status take_beginning(int64_t tokens) {
    forget_text();
    Tokens beginning = inputs_.sequences.front();
    beginning.resize(static_cast<size_t>(tokens));
    return add_text({beginning});
  }

  void forget_text() {
    meter_ = {};
    nll_sum_ = positions_ = 0;
    out_.text.length = out_.text.sequences = 0;
  }

  Status measure_text() {
    if (text_available_ == 0) AUTOGLM_RETURN_IF_ERROR(start_text());
    if (!text_lacks_.empty()) return ok_status();
    if (bounded() && text_done_ == 0) AUTOGLM_RETURN_IF_ERROR(lengthen_beginning());
    return add_whole_sequences();
  }

  Status start_text() {
    int64_t longest = 0, tokens = 0;
    for (const Tokens& sequence : inputs_.sequences) {
      const auto size = static_cast<int64_t>(sequence.size());
      if (size < 2) return invalid_argument("a sequence of text to measure on has fewer than two tokens");
      if (tokens >= kFullTokens) continue;
      tokens += size;
      longest = std::max(longest, size);
      ++text_available_;
    }
    mean_tokens_ = static_cast<double>(tokens) / static_cast<double>(text_available_);
    find_tokens_at_once(longest);
    if (!bounded() || !text_lacks_.empty()) return ok_status();
    const int64_t probe = std::min(kProbeTokens, static_cast<int64_t>(inputs_.sequences.front().size()));
    const double before = now_();
    AUTOGLM_RETURN_IF_ERROR(take_beginning(probe));
    // The first call may have read files and started threads: the second one says what further ones cost.
    if (now_() - before <= left()) AUTOGLM_RETURN_IF_ERROR(take_beginning(probe));
    probe_seconds_ = seconds_per_token_ * static_cast<double>(probe);
    return ok_status();
  }

  /// As many as both models have memory for; text_lacks_ where that is less than one sequence.
  void find_tokens_at_once(int64_t longest) {
    const auto fits = [&](int64_t tokens) {
      const Status status = compressed_.can_score(tokens);
      return status.ok() && source_ != nullptr ? source_->can_score(tokens) : status;
    };
    tokens_at_once_ = std::max(kTokensAtOnce, longest);
    Status status = fits(tokens_at_once_);
    while (!status.ok() && tokens_at_once_ > longest) {
      tokens_at_once_ = std::max(tokens_at_once_ / 2, longest);
      status = fits(tokens_at_once_);
    }
    if (!status.ok()) text_lacks_ = status.message();
  }

  /// Text that is compared whatever the time.
  int64_t required_tokens() const {
    const bool judged_by_text = options_.max_kl || (options_.max_loss && inputs_.tasks.empty());
    return judged_by_text && source_ != nullptr ? kContractTokens : 0;
  }
  int64_t required_sequences() const {
    int64_t count = 0;
    for (int64_t tokens = 0; count < text_available_ && tokens < required_tokens(); ++count) {
      tokens += static_cast<int64_t>(inputs_.sequences[static_cast<size_t>(count)].size());
    }
    return count;
  }

  /// As much of the first sequence as there is time for, as long as that is twice what was compared before.
  Status lengthen_beginning() {
    const auto whole = static_cast<int64_t>(inputs_.sequences.front().size());
    while (text_done_ == 0) {
      const int64_t affordable = stable_count(how_many(left(), seconds_per_token_, whole), whole);
      const int64_t tokens = std::max(affordable, std::min(required_tokens(), whole));
      if (tokens < whole && tokens < 2 * out_.text.length) return ok_status();
      AUTOGLM_RETURN_IF_ERROR(take_beginning(tokens));
      if (tokens == whole) text_done_ = 1;
    }
    return ok_status();
  }

  Status add_whole_sequences() {
    const auto& all = inputs_.sequences;
    Progress progress("comparing on held-out text", text_available_);
    while (text_done_ < text_available_) {
      int64_t end = text_available_;
      if (bounded()) {
        if (text_done_ == 0) return ok_status();  // not even the first one fitted
        const int64_t affordable = how_many(left(), seconds_per_token_ * mean_tokens_, text_available_);
        end = std::max(next_stop(text_done_, affordable, text_available_), required_sequences());
        if (end <= text_done_) return ok_status();
      }
      std::vector<Tokens> batch;
      for (int64_t tokens = 0; text_done_ < end; ++text_done_) {
        const Tokens& next = all[static_cast<size_t>(text_done_)];
        tokens += static_cast<int64_t>(next.size());
        if (tokens > tokens_at_once_) break;  // never the first: the longest fits
        batch.push_back(next);
      }
      AUTOGLM_RETURN_IF_ERROR(add_text(batch));
      progress.update(text_done_);
    }
    return ok_status();
  }

  void finish_text() {
    if (text_available_ == 0) return;
    if (!text_lacks_.empty()) {
      note("text: not measured: " + text_lacks_);
      return;
    }
    if (source_ != nullptr) {
      out_.divergence = meter_.result();
    } else if (positions_ > 0) {
      out_.perplexity = std::exp(nll_sum_ / positions_);
    }
    const auto given = static_cast<int64_t>(inputs_.sequences.size());
    if (text_done_ == 0) {
      note(fmt::format("text: only the first {} tokens of one sequence, to stay within the time", out_.text.length));
    } else if (text_done_ < text_available_) {
      note(fmt::format("text: {} of {} sequences, to stay within the time", text_done_, text_available_));
    }
    if (text_available_ < given) {
      note(fmt::format("text: {} of {} sequences, the most that are used", text_available_, given));
    }
  }

  // ---- latency

  struct Steps {
    int64_t count = 0;
    double median = 0;
  };
  /// Nothing where the model does not fit into memory.
  Result<std::optional<Steps>> time_steps(Scorer& scorer, const char* which, int64_t steps) {
    Tokens prompt(static_cast<size_t>(kLatencyContext));
    for (size_t i = 0; i < prompt.size(); ++i) {
      prompt[i] = static_cast<int32_t>(static_cast<int64_t>(i) % scorer.vocab_size());
    }
    auto times = scorer.step_milliseconds(prompt, steps, cancel_);
    if (times.ok() && !times->empty()) {
      const auto middle = times->begin() + std::ssize(*times) / 2;
      std::nth_element(times->begin(), middle, times->end());
      return std::optional(Steps{std::ssize(*times), *middle});
    }
    if (times.ok()) return internal_error("no step was timed");
    if (times.status().code() != StatusCode::kResourceExhausted) return times.status();
    latency_lacks_ = fmt::format("{}: {}", which, times.status().message());
    return std::optional<Steps>();
  }

  /// Steps to time next; `measured` or fewer: there is no time for more that would be worth it.
  int64_t next_steps(int64_t measured) const {
    if (!bounded()) return kLatencySteps;
    // The probe read all weights once, which is what a step does at most; the first call also loads and prefills.
    if (measured == 0) return probe_seconds_ * (kFirstLatencySteps + 2) > left() ? 0 : kFirstLatencySteps;
    const int64_t steps = how_many(left() - probe_seconds_, step_seconds_, kLatencySteps);
    return steps < std::min(2 * measured, kLatencySteps) ? measured : steps;
  }

  Status measure_latency() {
    while (latency_lacks_.empty()) {
      const int64_t measured = out_.latency ? out_.latency->steps : 0;
      const int64_t steps = next_steps(measured);
      if (steps <= measured) return ok_status();
      AUTOGLM_ASSIGN_OR_RETURN(const auto own, time_steps(compressed_, "compressed model", steps));
      if (!own) return ok_status();
      out_.latency = Latency{.context = kLatencyContext, .steps = own->count, .milliseconds_per_token = own->median};
      step_seconds_ = own->median / 1000;
      if (source_ != nullptr) {
        AUTOGLM_ASSIGN_OR_RETURN(const auto source, time_steps(*source_, "source", steps));
        if (source) {
          out_.latency->source_milliseconds_per_token = source->median;
          step_seconds_ += source->median / 1000;
        }
      }
      if (own->count < steps) return ok_status();  // the context ends there
    }
    return ok_status();
  }

  void finish_latency() {
    if (!latency_lacks_.empty()) note("time per token: not measured for the " + latency_lacks_);
    if (!out_.latency && latency_lacks_.empty()) {
      note("time per token: left out, there was no time for it; the level `full` measures it");
    } else if (out_.latency && out_.latency->steps < kLatencySteps) {
      note(fmt::format("time per token: {} of {} steps, to stay within the time", out_.latency->steps, kLatencySteps));
    }
  }

  // ---- tasks

  Result<double> answer(const std::vector<Task>& tasks, int64_t max_new_tokens, std::vector<std::string>& own,
                        std::vector<std::string>& source) {
    const double before = now_();
    AUTOGLM_ASSIGN_OR_RETURN(const auto answers, answer_tasks(compressed_, *inputs_.tokenizer, tasks, max_new_tokens,
                                                              inputs_.stop, cancel_));
    std::vector<std::string> theirs;
    if (source_ != nullptr) {
      AUTOGLM_ASSIGN_OR_RETURN(
          theirs, answer_tasks(*source_, *inputs_.tokenizer, tasks, max_new_tokens, inputs_.stop, cancel_));
    }
    own.insert(own.end(), answers.begin(), answers.end());
    source.insert(source.end(), theirs.begin(), theirs.end());
    return now_() - before;
  }

  Status measure_tasks() {
    if (!tasks_lack_.empty()) return ok_status();
    if (drawn_.empty()) {
      drawn_ = draw_tasks(inputs_.tasks, kFullTasks, options_.seed);
      max_new_tokens_ = answer_tokens(*inputs_.tokenizer, inputs_.tasks);
    }
    Status status = ask_tasks();
    if (status.code() != StatusCode::kResourceExhausted) return status;
    tasks_lack_ = status.message();
    return ok_status();
  }

  /// Tasks that are asked whatever the time.
  int64_t required_tasks() const {
    return options_.max_loss && source_ != nullptr ? std::min(kContractTasks, static_cast<int64_t>(drawn_.size())) : 0;
  }

  /// Of the first tasks, as many as surely fit: kFirstTasks, one, or none.
  Result<int64_t> first_tasks() {
    if (prompt_seconds_ == 0) {
      // Loading and a prompt cost what the probe cost, at most.
      if (required_tasks() == 0 && 2 * probe_seconds_ > left()) return 0;
      std::vector<std::string> own, source;
      AUTOGLM_ASSIGN_OR_RETURN(prompt_seconds_, answer({drawn_.front()}, 1, own, source));
    }
    const double step = out_.latency ? step_seconds_ : probe_seconds_;
    const double each = prompt_seconds_ + step * static_cast<double>(max_new_tokens_);
    const int64_t fit = how_many(left(), each, kFirstTasks);
    return fit < kFirstTasks ? std::min<int64_t>(fit, 1) : fit;
  }

  Status ask_tasks() {
    const auto available = static_cast<int64_t>(drawn_.size());
    while (tasks_done() < available) {
      const int64_t done = tasks_done();
      int64_t end = available;
      if (bounded()) {
        if (done == 0) {
          AUTOGLM_ASSIGN_OR_RETURN(end, first_tasks());
        } else {
          end =
              next_stop(done, std::min(how_many(left(), seconds_per_task_, available), kTaskGrowth * done), available);
        }
        end = std::max(std::min(end, available), required_tasks());
        if (end <= done) return ok_status();
      }
      end = std::min(end, done + kTasksAtOnce);
      const std::vector<Task> batch(drawn_.begin() + done, drawn_.begin() + end);
      AUTOGLM_ASSIGN_OR_RETURN(const double seconds, answer(batch, max_new_tokens_, answers_, source_answers_));
      seconds_per_task_ = seconds / static_cast<double>(end - done);
    }
    return ok_status();
  }

  int64_t tasks_done() const { return static_cast<int64_t>(answers_.size()); }

  void finish_tasks() {
    if (drawn_.empty()) return;
    const int64_t done = tasks_done(), available = static_cast<int64_t>(drawn_.size());
    if (!tasks_lack_.empty()) {
      note("tasks: not measured: " + tasks_lack_);
      return;
    }
    if (done < std::min(available, kFirstTasks)) {
      note("tasks: left out, there was no time for them; the level `full` asks them");
      return;
    }
    const std::vector<Task> asked(drawn_.begin(), drawn_.begin() + done);
    out_.tasks = score_answers(asked, answers_, source_ != nullptr ? &source_answers_ : nullptr);
    out_.tasks->available = static_cast<int64_t>(inputs_.tasks.size());
    out_.tasks->max_new_tokens = max_new_tokens_;
    if (done < available) note(fmt::format("tasks: {} of {}, to stay within the time", done, available));
  }

  // ---- weights

  Status measure_weights() {
    const format::StoredModel& source = *inputs_.source_files;
    const format::StoredModel& compressed = *inputs_.compressed_files;
    const double before = now_();
    const int64_t total = source.checkpoint.total_bytes();
    WeightDiffOptions options;
    if (bounded() && total > kFirstWeightBytes) options.max_bytes = kFirstWeightBytes;
    AUTOGLM_ASSIGN_OR_RETURN(out_.weights, compare_weights(source, compressed, options, cancel_));
    if (options.max_bytes == 0) return ok_status();
    const double share = std::max(out_.weights->compared_share, 1e-9);
    const double seconds_for_all = (now_() - before) / share;
    const int64_t parts = 1024;  // of the whole
    const int64_t affordable = stable_count(how_many(left(), seconds_for_all / parts, parts), parts);
    if (static_cast<double>(affordable) / parts > 1.5 * share) {
      options.max_bytes = affordable == parts ? 0 : total / parts * affordable;
      AUTOGLM_ASSIGN_OR_RETURN(out_.weights, compare_weights(source, compressed, options, cancel_));
    }
    if (out_.weights->compared_share < 1) {
      note(fmt::format("weights: {} of the numbers compared, to stay within the time",
                       format_percent(out_.weights->compared_share, 1)));
    }
    return ok_status();
  }

  Scorer* const source_;
  Scorer& compressed_;
  const EvaluateInputs& inputs_;
  const EvaluateOptions& options_;
  CancelToken& cancel_;
  const std::function<double()> now_;
  const double start_;
  double deadline_ = 0;

  int64_t text_available_ = 0, text_done_ = 0;  // whole sequences
  int64_t tokens_at_once_ = kTokensAtOnce;
  double mean_tokens_ = 0, seconds_per_token_ = 0;
  double probe_seconds_ = 0;  // both models on kProbeTokens
  DivergenceMeter meter_;
  double nll_sum_ = 0, positions_ = 0;  // without a source

  double step_seconds_ = 0;  // both models, one token

  std::vector<Task> drawn_;
  std::vector<std::string> answers_, source_answers_;  // to the first of them
  int64_t max_new_tokens_ = 0;
  double prompt_seconds_ = 0, seconds_per_task_ = 0;

  std::string text_lacks_, latency_lacks_, tasks_lack_;  // memory: why these were not measured
  Evaluation out_;
};

}  // namespace

std::string_view to_string(VerifyLevel level) {
  switch (level) {
    case VerifyLevel::kNone: return "none";
    case VerifyLevel::kFast: return "fast";
    case VerifyLevel::kFull: return "full";
  }
  return "none";
}

Result<VerifyLevel> parse_verify_level(std::string_view word) {
  for (const VerifyLevel level : {VerifyLevel::kNone, VerifyLevel::kFast, VerifyLevel::kFull}) {
    if (word == to_string(level)) return level;
  }
  return invalid_argument(
      unknown_word("level of verification", word, std::vector<std::string>{"none", "fast", "full"}));
}

Result<Evaluation> evaluate(Scorer* source, Scorer& compressed, const EvaluateInputs& inputs,
                            const EvaluateOptions& options, CancelToken& cancel) {
  return Evaluator(source, compressed, inputs, options, cancel).run();
}

}  // namespace autoglm::eval
