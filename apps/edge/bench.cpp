#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "apps/edge/common.h"
#include "core/base/cancel.h"
#include "core/base/memory.h"

namespace autoglm::edge {
namespace {

constexpr int64_t kWarmUp = 5;  // steps that are not counted

struct BenchOptions {
  ModelOptions model;
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

struct Measured {
  int64_t batch = 0;
  double prompt_rate = 0, decode_rate = 0;  ///< tokens per second, of the whole batch
  Latency first_token, step;                ///< milliseconds
};

class Bench {
 public:
  Bench(const BenchOptions& options, engine::Engine& engine)
      : options_(options), engine_(engine), random_(options.seed) {}

  Result<Measured> run(int64_t batch) {
    Measured measured = {.batch = batch};
    std::vector<double> prompts, steps;
    for (int64_t i = 0; i < options_.repeats; ++i) {
      AUTOGLM_RETURN_IF_ERROR(submit(batch, 1));
      const Stopwatch watch;
      AUTOGLM_RETURN_IF_ERROR(step_until(batch));
      prompts.push_back(1000 * watch.seconds());
    }
    measured.first_token = latency_of(prompts);
    measured.prompt_rate = 1000 * static_cast<double>(batch * options_.prompt_tokens) / measured.first_token.median;

    AUTOGLM_RETURN_IF_ERROR(submit(batch, options_.runs + 2 * kWarmUp + batch));
    AUTOGLM_RETURN_IF_ERROR(step_until(batch));  // every prompt has its first token
    for (int64_t i = 0; i < kWarmUp; ++i) AUTOGLM_RETURN_IF_ERROR(step().status());
    for (int64_t i = 0; i < options_.runs; ++i) {
      const Stopwatch watch;
      AUTOGLM_ASSIGN_OR_RETURN(const int64_t tokens, step());
      if (tokens != batch) return internal_error(fmt::format("a step gave {} tokens for {}", tokens, batch));
      steps.push_back(1000 * watch.seconds());
    }
    const double total = std::accumulate(steps.begin(), steps.end(), 0.0);
    measured.decode_rate = 1000 * static_cast<double>(batch * options_.runs) / total;
    measured.step = latency_of(std::move(steps));
    for (const engine::RequestId id : ids_) engine_.cancel(id);
    while (!engine_.idle()) AUTOGLM_RETURN_IF_ERROR(step().status());
    return measured;
  }

 private:
  /// `batch` prompts of random tokens, each for `new_tokens` tokens.
  Status submit(int64_t batch, int64_t new_tokens) {
    ids_.clear();
    for (int64_t i = 0; i < batch; ++i) {
      engine::Request request = {.max_new_tokens = new_tokens, .ignore_end = true};
      for (int64_t t = 0; t < options_.prompt_tokens; ++t) {
        request.prompt.push_back(static_cast<int32_t>(random_() % static_cast<uint64_t>(engine_.config().vocab_size)));
      }
      AUTOGLM_ASSIGN_OR_RETURN(const engine::RequestId id, engine_.submit(std::move(request)));
      ids_.push_back(id);
    }
    return ok_status();
  }

  /// Tokens that one step gave.
  Result<int64_t> step() {
    events_.clear();
    AUTOGLM_RETURN_IF_ERROR(engine_.step(events_, &CancelToken::global()));
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

  const BenchOptions& options_;
  engine::Engine& engine_;
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
  AUTOGLM_ASSIGN_OR_RETURN(const Loaded loaded, load(options.model));
  const engine::Engine& engine = *loaded.engine;
  nlohmann::ordered_json json = {
      {"model", options.model.model},           {"kernels", engine.kernels()}, {"threads", engine.threads()},
      {"compute", options.model.compute},       {"kv", options.model.kv},      {"load_seconds", loaded.seconds},
      {"prompt_tokens", options.prompt_tokens}, {"runs", options.runs},        {"repeats", options.repeats}};
  std::string summary = fmt::format(
      "{}: kernels {}, {} threads, compute {}, cache {}, loaded in {:.3f} s\n"
      "{} prompt tokens, {} steps; rates in tokens/s of the batch, latencies in ms\n"
      "{:>5} {:>12} {:>12} {:>12} {:>9} {:>9} {:>9} {:>9}\n",
      options.model.model, engine.kernels(), engine.threads(), options.model.compute, options.model.kv, loaded.seconds,
      options.prompt_tokens, options.runs, "batch", "prompt", "first token", "decode", "mean", "median", "P95", "P99");
  Bench bench(options, *loaded.engine);
  for (const int64_t batch : options.batches) {
    AUTOGLM_ASSIGN_OR_RETURN(const Measured measured, bench.run(batch));
    const Latency& step = measured.step;
    json["results"].push_back({{"batch", batch},
                               {"prompt_tokens_per_second", measured.prompt_rate},
                               {"first_token_ms", json_of(measured.first_token)},
                               {"decode_tokens_per_second", measured.decode_rate},
                               {"step_ms", json_of(step)}});
    summary += fmt::format("{:>5} {:>12.1f} {:>12.2f} {:>12.1f} {:>9.3f} {:>9.3f} {:>9.3f} {:>9.3f}\n", batch,
                           measured.prompt_rate, measured.first_token.median, measured.decode_rate, step.mean,
                           step.median, step.p95, step.p99);
  }
  json["peak_bytes"] = peak_rss_bytes();
  json["predicted_bytes"] = engine.plan().total();
  summary +=
      fmt::format("peak memory {}, predicted {}", format_bytes(peak_rss_bytes()), format_bytes(engine.plan().total()));
  cli::print(output, dump(json), summary);
  return ok_status();
}

}  // namespace

Command add_bench(CLI::App& root) {
  Command command = cli::add_command(root, "bench", "Measure speed, latency and memory on random prompts",
                                     "autoglm-edge bench models/glm-phone-demo --batch 1,8 --json");
  auto options = std::make_shared<BenchOptions>();
  CLI::App& app = *command.app;
  add_model_options(app, options->model);
  app.add_option("--batch", options->batches, "sequences at once; several, as 1,8,16, are measured in turn")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--prompt-tokens", options->prompt_tokens, "of each prompt")->capture_default_str();
  app.add_option("--runs", options->runs, "one-token steps that are timed")->capture_default_str();
  app.add_option("--repeats", options->repeats, "times that the prompts are timed")->capture_default_str();
  app.add_option("--seed", options->seed, "of the random prompts")->capture_default_str();
  command.run = [options, output = command.output] {
    const Status status = run(*options, *output);
    return status.ok() ? 0 : cli::fail(status);
  };
  return command;
}

}  // namespace autoglm::edge
