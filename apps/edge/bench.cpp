#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <random>

#include "apps/edge/common.h"
#include "core/base/cancel.h"
#include "core/base/energy.h"
#include "core/base/memory.h"

namespace autoglm::edge {
namespace {

constexpr int64_t kWarmUp = 5;  // steps that are not counted

struct BenchOptions {
  ModelOptions model;
  std::vector<std::string> compare;
  std::vector<int> threads = {0};
  std::vector<int64_t> batches = {1};
  int64_t prompt_tokens = 128, runs = 100, repeats = 3;
  uint64_t seed = 0;
};

struct Latency {
  double mean = 0, median = 0, p95 = 0, p99 = 0, least = 0, most = 0;
};

/// The value that a share of the sorted `values` does not exceed (nearest rank).
double percentile(const std::vector<double>& values, double share) {
  const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(values.size())));
  return values[std::max<size_t>(rank, 1) - 1];
}

Latency latency_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {.mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size()),
          .median = percentile(values, 0.5),
          .p95 = percentile(values, 0.95),
          .p99 = percentile(values, 0.99),
          .least = values.front(),
          .most = values.back()};
}

/// What one model with one number of threads took for one batch size.
struct Samples {
  std::vector<double> prompts, steps;  ///< milliseconds
  double joules = 0;                   ///< of the steps
};

/// One model loaded with one number of threads.
class Subject {
 public:
  Subject(std::string model, const BenchOptions& options, Loaded loaded)
      : model_(std::move(model)), options_(options), loaded_(std::move(loaded)), random_(options.seed) {}

  const std::string& model() const { return model_; }
  const engine::Engine& engine() const { return *loaded_.engine; }
  double load_seconds() const { return loaded_.seconds; }

  /// Runs `batch` prompts, then `runs` steps of one token each.
  Status measure(int64_t batch, int64_t runs, EnergyMeter* meter, Samples& samples) {
    AUTOGLM_RETURN_IF_ERROR(submit(batch, runs + 2 * kWarmUp + batch));
    const Stopwatch prompt;
    AUTOGLM_RETURN_IF_ERROR(step_until(batch));
    samples.prompts.push_back(1000 * prompt.seconds());
    for (int64_t i = 0; i < kWarmUp; ++i) AUTOGLM_RETURN_IF_ERROR(step().status());
    double before = meter == nullptr ? 0 : meter->joules();
    for (int64_t i = 0; i < runs; ++i) {
      const Stopwatch watch;
      AUTOGLM_ASSIGN_OR_RETURN(const int64_t tokens, step());
      samples.steps.push_back(1000 * watch.seconds());
      if (tokens != batch) return internal_error(fmt::format("a step gave {} tokens for {}", tokens, batch));
      if (meter == nullptr) continue;
      const double now = meter->joules();
      samples.joules += now - std::exchange(before, now);
    }
    for (const engine::RequestId id : ids_) loaded_.engine->cancel(id);
    while (!engine().idle()) AUTOGLM_RETURN_IF_ERROR(step().status());
    return ok_status();
  }

 private:
  /// `batch` prompts of random tokens, each for `new_tokens` tokens.
  Status submit(int64_t batch, int64_t new_tokens) {
    ids_.clear();
    for (int64_t i = 0; i < batch; ++i) {
      engine::Request request = {.max_new_tokens = new_tokens, .ignore_end = true};
      for (int64_t t = 0; t < options_.prompt_tokens; ++t) {
        request.prompt.push_back(static_cast<int32_t>(random_() % static_cast<uint64_t>(engine().config().vocab_size)));
      }
      AUTOGLM_ASSIGN_OR_RETURN(const engine::RequestId id, loaded_.engine->submit(std::move(request)));
      ids_.push_back(id);
    }
    return ok_status();
  }

  /// Tokens that one step gave.
  Result<int64_t> step() {
    events_.clear();
    AUTOGLM_RETURN_IF_ERROR(loaded_.engine->step(events_, &CancelToken::global()));
    int64_t tokens = 0;
    for (const engine::Event& event : events_) {
      if (event.finish == engine::Finish::kFailed) return event.status;
      tokens += event.token.has_value();
    }
    return tokens;
  }

  /// Steps until `batch` sequences have begun to answer.
  Status step_until(int64_t batch) {
    std::vector<engine::RequestId> begun;
    while (static_cast<int64_t>(begun.size()) < batch) {
      AUTOGLM_RETURN_IF_ERROR(step().status());
      for (const engine::Event& event : events_) {
        if (event.token && std::find(begun.begin(), begun.end(), event.id) == begun.end()) begun.push_back(event.id);
      }
    }
    return ok_status();
  }

  std::string model_;
  const BenchOptions& options_;
  Loaded loaded_;
  std::mt19937_64 random_;
  std::vector<engine::RequestId> ids_;
  std::vector<engine::Event> events_;
};

nlohmann::ordered_json json_of(const Latency& latency) {
  return {{"mean", latency.mean}, {"median", latency.median}, {"p95", latency.p95},
          {"p99", latency.p99},   {"min", latency.least},     {"max", latency.most}};
}

Status check(const BenchOptions& options) {
  const auto positive = [](std::string_view name, int64_t value, int64_t most) {
    if (value >= 1 && value <= most) return ok_status();
    return invalid_argument(fmt::format("{} is {}, must be from 1 to {}", name, value, most));
  };
  for (const int64_t batch : options.batches) AUTOGLM_RETURN_IF_ERROR(positive("--batch", batch, 1024));
  AUTOGLM_RETURN_IF_ERROR(positive("--prompt-tokens", options.prompt_tokens, 1 << 20));
  AUTOGLM_RETURN_IF_ERROR(positive("--runs", options.runs, 1 << 20));
  return positive("--repeats", options.repeats, 1000);
}

/// Every model with every number of threads.
Result<std::vector<Subject>> load_all(const BenchOptions& options) {
  std::vector<std::string> models = {options.model.model};
  models.insert(models.end(), options.compare.begin(), options.compare.end());
  std::vector<Subject> subjects;
  for (const std::string& model : models) {
    for (const int threads : options.threads) {
      ModelOptions how = options.model;
      how.model = model;
      how.engine.threads = threads;
      AUTOGLM_ASSIGN_OR_RETURN(Loaded loaded, load(how));
      subjects.emplace_back(model, options, std::move(loaded));
    }
  }
  return subjects;
}

/// The table and its JSON.
class Report {
 public:
  Report(const BenchOptions& options, const std::vector<Subject>& subjects, const EnergyMeter* meter) {
    json_ = {{"compute", options.model.compute},
             {"kv", options.model.kv},
             {"prompt_tokens", options.prompt_tokens},
             {"runs", options.runs},
             {"repeats", options.repeats},
             {"energy_meter", nullptr}};
    if (meter != nullptr) json_["energy_meter"] = meter->name();
    for (const Subject& subject : subjects) {
      const engine::Engine& engine = subject.engine();
      json_["models"].push_back({{"model", subject.model()},
                                 {"threads", engine.threads()},
                                 {"kernels", engine.kernels()},
                                 {"load_seconds", subject.load_seconds()},
                                 {"predicted_bytes", engine.plan().total()}});
      summary_ += fmt::format("{}: kernels {}, {} threads, compute {}, cache {}, loaded in {:.3f} s\n", subject.model(),
                              engine.kernels(), engine.threads(), options.model.compute, options.model.kv,
                              subject.load_seconds());
    }
    summary_ += fmt::format(
        "{} prompt tokens, {} steps; rates in tokens/s of the batch, latencies in ms{}\n"
        "{:>7} {:>5} {:>11} {:>12} {:>11} {:>7} {:>9} {:>9} {:>9} {:>9}{}\n",
        options.prompt_tokens, options.runs, meter == nullptr ? "" : ", energy by " + meter->name(), "threads", "batch",
        "prompt", "first token", "decode", "ratio", "mean", "median", "P95", "P99",
        meter == nullptr ? "" : "     watts   J/token");
  }

  /// The first subject of a batch comes first; `ratio`: its median step to this one's.
  void add(const Subject& subject, bool is_first, int64_t batch, int64_t prompt_tokens, const Samples& samples,
           bool has_energy) {
    const Latency first = latency_of(samples.prompts), step = latency_of(samples.steps);
    const double prompt_rate = 1000 * static_cast<double>(batch * prompt_tokens) / first.median;
    const double decode_rate = 1000 * static_cast<double>(batch) / step.mean;
    if (is_first) base_ = step.median;
    const double ratio = base_ / step.median;
    nlohmann::ordered_json row = {{"model", subject.model()},
                                  {"threads", subject.engine().threads()},
                                  {"batch", batch},
                                  {"prompt_tokens_per_second", prompt_rate},
                                  {"first_token_ms", json_of(first)},
                                  {"decode_tokens_per_second", decode_rate},
                                  {"ratio", ratio},
                                  {"step_ms", json_of(step)}};
    summary_ += fmt::format("{:>7} {:>5} {:>11.1f} {:>12.2f} {:>11.1f} {:>7.2f} {:>9.3f} {:>9.3f} {:>9.3f} {:>9.3f}",
                            subject.engine().threads(), batch, prompt_rate, first.median, decode_rate, ratio, step.mean,
                            step.median, step.p95, step.p99);
    if (has_energy) {
      const double steps = static_cast<double>(samples.steps.size());
      const double watts = 1000 * samples.joules / (steps * step.mean);
      const double each = samples.joules / (steps * static_cast<double>(batch));
      row["watts"] = watts;
      row["joules_per_token"] = each;
      summary_ += fmt::format(" {:>9.2f} {:>9.4f}", watts, each);
    }
    summary_ += "  " + subject.model() + "\n";
    json_["results"].push_back(std::move(row));
  }

  void print(const cli::Output& output) {
    json_["peak_bytes"] = peak_rss_bytes();
    summary_ += "peak memory " + format_bytes(peak_rss_bytes());
    cli::print(output, dump(json_), summary_);
  }

 private:
  nlohmann::ordered_json json_;
  std::string summary_;
  double base_ = 0;
};

Status run(BenchOptions options, const cli::Output& output) {
  AUTOGLM_RETURN_IF_ERROR(check(options));
  const int64_t largest = *std::max_element(options.batches.begin(), options.batches.end());
  options.model.engine.max_sequences = largest;
  options.model.engine.share_prefixes = false;
  // Sequences that answer early go on while the last prompt is run.
  const int64_t context = options.prompt_tokens + options.runs + 2 * kWarmUp + largest;
  if (options.model.engine.max_context == 0) options.model.engine.max_context = context;
  if (options.model.engine.max_context < context) {
    return invalid_argument(
        fmt::format("the measurement needs a --context of {}, not {}", context, options.model.engine.max_context));
  }
  AUTOGLM_ASSIGN_OR_RETURN(std::vector<Subject> subjects, load_all(options));
  std::optional<EnergyMeter> meter = EnergyMeter::find();
  Report report(options, subjects, meter ? &*meter : nullptr);
  for (const int64_t batch : options.batches) {
    std::vector<Samples> samples(subjects.size());
    int64_t done = 0;
    for (int64_t turn = 1; turn <= options.repeats; ++turn) {  // in turns, so that what disturbs one disturbs all
      const int64_t runs = options.runs * turn / options.repeats - done;
      for (size_t i = 0; i < subjects.size(); ++i) {
        AUTOGLM_RETURN_IF_ERROR(subjects[i].measure(batch, runs, meter ? &*meter : nullptr, samples[i]));
      }
      done += runs;
    }
    for (size_t i = 0; i < subjects.size(); ++i) {
      report.add(subjects[i], i == 0, batch, options.prompt_tokens, samples[i], meter.has_value());
    }
  }
  report.print(output);
  return ok_status();
}

}  // namespace

Command add_bench(CLI::App& root) {
  Command command = cli::add_command(root, "bench", "Measure speed, latency, memory and energy on random prompts",
                                     "autoglm-edge bench models/glm-phone-demo --batch 1,8 --json");
  auto options = std::make_shared<BenchOptions>();
  CLI::App& app = *command.app;
  add_model_options(app, options->model);
  app.remove_option(app.get_option("--threads"));
  app.add_option("--threads", options->threads, "0: all cores; several, as 1,2,4, are measured in turn")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--compare", options->compare, "another model, measured in turn with the first; may be given again");
  app.add_option("--batch", options->batches, "sequences at once; several, as 1,8,16, are measured in turn")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--prompt-tokens", options->prompt_tokens, "of each prompt")->capture_default_str();
  app.add_option("--runs", options->runs, "one-token steps that are timed")->capture_default_str();
  app.add_option("--repeats", options->repeats, "turns: times that the prompts are timed, the steps spread over them")
      ->capture_default_str();
  app.add_option("--seed", options->seed, "of the random prompts")->capture_default_str();
  command.run = [options, output = command.output] {
    const Status status = run(*options, *output);
    return status.ok() ? 0 : cli::fail(status);
  };
  return command;
}

}  // namespace autoglm::edge
