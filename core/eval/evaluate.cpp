#include "core/eval/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <limits>

#include "core/base/progress.h"
#include "core/base/suggest.h"

namespace autoglm::eval {
namespace {

constexpr double kSafety = 0.8;                    // of the time that is left, what is planned for
constexpr int64_t kTokensAtOnce = 16'384;          // given to a scorer together: it may hold a hidden state for each
constexpr int64_t kTasksAtOnce = 128;              // between two looks at the clock
constexpr int64_t kFirstWeightBytes = 64'000'000;  // of the source, compared to find out the speed
constexpr int64_t kProbeSteps = 8;                 // tokens written to find out the speed of answering

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// The largest power of two up to n; n itself when it is `all`, or less than 1.
int64_t stable_count(int64_t n, int64_t all) {
  if (n >= all || n < 1) return std::min(n, all);
  return static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(n)));
}

/// How many units cost `seconds_each` fit into `seconds`.
int64_t how_many(double seconds, double seconds_each, int64_t most) {
  if (seconds <= 0) return 0;
  const double count = seconds_each > 0 ? seconds / seconds_each : static_cast<double>(most);
  return count >= static_cast<double>(most) ? most : static_cast<int64_t>(count);
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
      // Each kind of work has a share of the time; what one leaves is the next one's.
      struct Work {
        bool wanted;
        double share;
        Status (Evaluator::*measure)();
      };
      const Work works[] = {
          {!inputs_.sequences.empty(), 4, &Evaluator::measure_text},
          {true, 1, &Evaluator::measure_latency},
          {!inputs_.tasks.empty() && inputs_.tokenizer != nullptr, 4, &Evaluator::measure_tasks},
          {inputs_.source_files != nullptr && inputs_.compressed_files != nullptr, 1, &Evaluator::measure_weights}};
      double shares = 0, used = 0;
      for (const Work& work : works) shares += work.wanted ? work.share : 0;
      for (const Work& work : works) {
        if (!work.wanted) continue;
        AUTOGLM_RETURN_IF_ERROR(cancel_.check());
        used += work.share;
        deadline_ = fast ? start_ + options_.seconds * used / shares : std::numeric_limits<double>::infinity();
        AUTOGLM_RETURN_IF_ERROR((this->*work.measure)());
      }
    }
    if (options_.max_loss) {
      AUTOGLM_ASSIGN_OR_RETURN(out_.contract, check_contract(*options_.max_loss, out_.tasks, out_.divergence));
    }
    out_.seconds = now_() - start_;
    return std::move(out_);
  }

 private:
  double left() const { return (deadline_ - now_()) * kSafety; }
  bool bounded() const { return options_.level == VerifyLevel::kFast; }

  void note(std::string text) { out_.notes.push_back(std::move(text)); }

  // ---- text

  /// Compares on some sequences and returns the seconds it took.
  Result<double> add_text(const std::vector<Tokens>& sequences) {
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
    for (const Tokens& s : sequences) {
      out_.text.length = std::max(out_.text.length, static_cast<int64_t>(s.size()));
      ++out_.text.sequences;
    }
    return now_() - before;
  }

  void forget_text() {
    meter_ = {};
    nll_sum_ = positions_ = 0;
    out_.text.length = out_.text.sequences = 0;
  }

  Status measure_text() {
    const auto& all = inputs_.sequences;
    for (const Tokens& sequence : all) {
      if (sequence.size() < 2) return invalid_argument("a sequence of text to measure on has fewer than two tokens");
    }
    double seconds_per_token = 0;
    if (bounded()) {
      Tokens probe = all.front();
      probe.resize(std::min<size_t>(probe.size(), kProbeTokens));
      AUTOGLM_ASSIGN_OR_RETURN(probe_seconds_, add_text({probe}));
      seconds_per_token = probe_seconds_ / static_cast<double>(probe.size());  // reading the weights included
    }
    AUTOGLM_RETURN_IF_ERROR(add_whole_sequences(seconds_per_token));
    if (source_ != nullptr) {
      out_.divergence = meter_.result();
    } else if (positions_ > 0) {
      out_.perplexity = std::exp(nll_sum_ / positions_);
    }
    return ok_status();
  }

  /// With no idea of the speed (0), everything up to kFullTokens.
  Status add_whole_sequences(double seconds_per_token) {
    const auto& all = inputs_.sequences;
    int64_t available = 0, tokens = 0;
    while (available < static_cast<int64_t>(all.size()) && tokens < kFullTokens) {
      tokens += static_cast<int64_t>(all[static_cast<size_t>(available++)].size());
    }
    const auto mean = std::max<int64_t>(1, tokens / available);
    Progress progress("comparing on held-out text", available);
    int64_t done = 0;
    while (done < available) {
      const int64_t affordable =
          bounded() ? how_many(left(), seconds_per_token * static_cast<double>(mean), available) : available;
      const int64_t target = stable_count(done + affordable, available);
      if (target <= done) break;
      if (done == 0) forget_text();  // the probe is the beginning of the first sequence
      const int64_t end = std::min(target, done + std::max<int64_t>(1, kTokensAtOnce / mean));
      const std::vector<Tokens> batch(all.begin() + done, all.begin() + end);
      AUTOGLM_ASSIGN_OR_RETURN(const double seconds, add_text(batch));
      seconds_per_token = seconds / static_cast<double>((end - done) * mean);
      done = end;
      progress.update(done);
    }
    if (done == 0) {
      AUTOGLM_RETURN_IF_ERROR(add_beginning(seconds_per_token));
      note(fmt::format("text: only the first {} tokens of one sequence, to stay within the time", out_.text.length));
    } else if (done < available) {
      note(fmt::format("text: {} of {} sequences, to stay within the time", done, available));
    }
    if (available < static_cast<int64_t>(all.size())) {
      note(fmt::format("text: {} of {} sequences, the most that are used", available, all.size()));
    }
    return ok_status();
  }

  /// As much of the first sequence as there is time for, when a whole one would take too long.
  Status add_beginning(double seconds_per_token) {
    Tokens beginning = inputs_.sequences.front();
    const int64_t tokens = stable_count(how_many(left(), seconds_per_token, static_cast<int64_t>(beginning.size())),
                                        static_cast<int64_t>(beginning.size()));
    if (tokens <= out_.text.length) return ok_status();
    forget_text();
    beginning.resize(static_cast<size_t>(tokens));
    return add_text({beginning}).status();
  }

  // ---- latency

  /// Nothing where the model does not fit into memory.
  Result<std::optional<double>> time_steps(Scorer& scorer, const char* which, int64_t steps) {
    const auto milliseconds = scorer.milliseconds_per_token(kLatencyContext, steps, cancel_);
    if (milliseconds.ok()) return std::optional(*milliseconds);
    if (milliseconds.status().code() != StatusCode::kResourceExhausted) return milliseconds.status();
    note(fmt::format("time per token: not measured for the {}: {}", which, milliseconds.status().message()));
    return std::optional<double>();
  }

  Status measure_latency() {
    // The probe read all weights once, which is what a step does at most; the first call also loads and prefills.
    if (bounded() && probe_seconds_ * (kFirstLatencySteps + 2) > left()) {
      note("time per token: left out, there was no time for it; the level `full` measures it");
      return ok_status();
    }
    int64_t steps = bounded() ? kFirstLatencySteps : kLatencySteps;
    const double before = now_();
    AUTOGLM_ASSIGN_OR_RETURN(auto own, time_steps(compressed_, "compressed model", steps));
    if (!own) return ok_status();
    std::optional<double> source;
    if (source_ != nullptr) {
      AUTOGLM_ASSIGN_OR_RETURN(source, time_steps(*source_, "source", steps));
    }
    const double seconds_per_step = (*own + source.value_or(0)) / 1000;
    const double overhead = now_() - before - seconds_per_step * static_cast<double>(steps);
    const int64_t affordable = bounded() ? how_many(left() - overhead, seconds_per_step, kLatencySteps) : 0;
    if (affordable > steps) {
      steps = affordable;
      AUTOGLM_ASSIGN_OR_RETURN(own, time_steps(compressed_, "compressed model", steps));
      if (source) {
        AUTOGLM_ASSIGN_OR_RETURN(source, time_steps(*source_, "source", steps));
      }
    }
    if (own) out_.latency = Latency{kLatencyContext, steps, *own, source};
    if (steps < kLatencySteps)
      note(fmt::format("time per token: {} of {} steps, to stay within the time", steps, kLatencySteps));
    return ok_status();
  }

  // ---- tasks

  Result<double> answer(const std::vector<Task>& tasks, int64_t max_new_tokens, std::vector<std::string>& own,
                        std::vector<std::string>& source) {
    const double before = now_();
    AUTOGLM_ASSIGN_OR_RETURN(const auto answers, answer_tasks(compressed_, *inputs_.tokenizer, tasks, max_new_tokens,
                                                              inputs_.stop, cancel_));
    own.insert(own.end(), answers.begin(), answers.end());
    if (source_ != nullptr) {
      AUTOGLM_ASSIGN_OR_RETURN(
          const auto theirs, answer_tasks(*source_, *inputs_.tokenizer, tasks, max_new_tokens, inputs_.stop, cancel_));
      source.insert(source.end(), theirs.begin(), theirs.end());
    }
    return now_() - before;
  }

  /// Seconds that answering one task takes at most: a prompt with one token, and one with some more.
  Result<double> seconds_per_task(const Task& task, int64_t max_new_tokens) {
    std::vector<std::string> own, source;
    AUTOGLM_ASSIGN_OR_RETURN(const double first, answer({task}, 1, own, source));
    AUTOGLM_ASSIGN_OR_RETURN(const double warm, answer({task}, 1, own, source));
    AUTOGLM_ASSIGN_OR_RETURN(const double more, answer({task}, 1 + kProbeSteps, own, source));
    const double prompt = std::min(first, warm);  // the first call may have loaded the weights
    return prompt + std::max(0.0, more - prompt) / kProbeSteps * static_cast<double>(max_new_tokens);
  }

  Status measure_tasks() {
    const Status status = ask_tasks();
    if (status.code() != StatusCode::kResourceExhausted) return status;
    note("tasks: not measured: " + status.message());
    return ok_status();
  }

  Status ask_tasks() {
    const std::vector<Task> drawn = draw_tasks(inputs_.tasks, kFullTasks, options_.seed);
    const auto available = static_cast<int64_t>(drawn.size());
    const int64_t max_new_tokens = answer_tokens(*inputs_.tokenizer, inputs_.tasks);
    double seconds_each = 0;
    if (bounded()) {
      // The probe read all weights once, which is what writing a token takes at most.
      const bool no_time = probe_seconds_ * (kProbeSteps + 3) > left();
      if (!no_time) {
        AUTOGLM_ASSIGN_OR_RETURN(seconds_each, seconds_per_task(drawn.front(), max_new_tokens));
      }
      const auto fewest = static_cast<double>(std::min(available, kFirstTasks));
      if (no_time || seconds_each * fewest > left()) {
        note("tasks: left out, there was no time for them; the level `full` asks them");
        return ok_status();
      }
    }
    std::vector<std::string> own, source;
    int64_t done = 0;
    while (done < available) {
      const int64_t affordable = bounded() ? how_many(left(), seconds_each, available) : available;
      int64_t target = stable_count(done + affordable, available);
      if (bounded() && done == 0) target = std::min(kFirstTasks, available);  // together they may go faster
      if (target <= done) break;
      const int64_t end = std::min(target, done + kTasksAtOnce);
      const std::vector<Task> batch(drawn.begin() + done, drawn.begin() + end);
      AUTOGLM_ASSIGN_OR_RETURN(const double seconds, answer(batch, max_new_tokens, own, source));
      seconds_each = seconds / static_cast<double>(end - done);
      done = end;
    }
    const std::vector<Task> asked(drawn.begin(), drawn.begin() + done);
    out_.tasks = score_answers(asked, own, source_ != nullptr ? &source : nullptr);
    out_.tasks->available = static_cast<int64_t>(inputs_.tasks.size());
    out_.tasks->max_new_tokens = max_new_tokens;
    if (done < available) note(fmt::format("tasks: {} of {}, to stay within the time", done, available));
    return ok_status();
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
  double probe_seconds_ = 0;  // both models on kProbeTokens
  DivergenceMeter meter_;
  double nll_sum_ = 0, positions_ = 0;  // without a source
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
