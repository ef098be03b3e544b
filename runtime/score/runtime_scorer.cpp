#include "runtime/score/runtime_scorer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>
#include <vector>

#include "core/base/memory.h"
#include "runtime/engine/engine.h"

namespace autoglm::engine {
namespace {

constexpr int64_t kCacheTokens = 2048;  // for each prompt that is continued; pages become resident as they are used

using eval::ScoredBatch;
using eval::Tokens;

class Batch : public ScoredBatch {
 public:
  explicit Batch(Engine& engine) : engine_(engine) {}

  void add(std::vector<float> hidden) { hidden_.push_back(std::move(hidden)); }

  Status logits(int64_t sequence, int64_t first, int64_t count, std::span<float> out) const override {
    const auto n = static_cast<size_t>(engine_.config().hidden_size);
    const bool known = sequence >= 0 && sequence < std::ssize(hidden_);
    const std::span<const float> all = known ? hidden_[static_cast<size_t>(sequence)] : std::span<const float>();
    const int64_t positions = std::ssize(all) / static_cast<int64_t>(n);
    if (first < 0 || count < 0 || first > positions || count > positions - first) {
      return internal_error("logits of positions that were not scored");
    }
    return engine_.logits(all.subspan(static_cast<size_t>(first) * n, static_cast<size_t>(count) * n), out);
  }

 private:
  Engine& engine_;
  std::vector<std::vector<float>> hidden_;  // [tokens, hidden] of each sequence
};

class RuntimeScorer : public eval::Scorer {
 public:
  RuntimeScorer(std::unique_ptr<Engine> engine, int64_t max_ram) : engine_(std::move(engine)), max_ram_(max_ram) {}

  int64_t vocab_size() const override { return engine_->config().vocab_size; }

  Status can_score(int64_t tokens) const override {
    const int64_t needed = tokens * engine_->config().hidden_size * static_cast<int64_t>(sizeof(float));
    const int64_t left = max_ram_ - engine_->plan().total();
    if (max_ram_ == 0 || needed <= left) return ok_status();
    return resource_exhausted(fmt::format("the states of {} tokens need {}, and {} are left of {}", tokens,
                                          format_bytes(needed), format_bytes(std::max<int64_t>(0, left)),
                                          format_bytes(max_ram_)));
  }

  Result<std::unique_ptr<ScoredBatch>> score(const std::vector<Tokens>& sequences, CancelToken& cancel) override {
    auto batch = std::make_unique<Batch>(*engine_);
    for (const Tokens& sequence : sequences) {
      AUTOGLM_ASSIGN_OR_RETURN(auto hidden, engine_->hidden_states(sequence, &cancel));
      batch->add(std::move(hidden));
    }
    return std::unique_ptr<ScoredBatch>(std::move(batch));
  }

  Result<std::vector<Tokens>> generate(const std::vector<Tokens>& prompts, int64_t max_new_tokens,
                                       const std::vector<int64_t>& stop, CancelToken& cancel) override {
    std::vector<Tokens> answers(prompts.size());
    if (max_new_tokens <= 0) return answers;
    std::map<RequestId, size_t> places;  // of the requests that go on
    for (size_t i = 0; i < prompts.size(); ++i) {
      const auto id = engine_->submit({.prompt = prompts[i], .max_new_tokens = max_new_tokens, .ignore_end = true});
      if (!id.ok()) return end_all(places, id.status());
      places[*id] = i;
    }
    std::vector<Event> events;
    while (!engine_->idle()) {
      events.clear();
      if (const Status status = engine_->step(events, &cancel); !status.ok()) return end_all(places, status);
      for (const Event& event : events) {
        if (event.finish == Finish::kFailed) return end_all(places, event.status);
        const auto place = places.find(event.id);
        if (place == places.end() || !event.token) continue;
        if (std::find(stop.begin(), stop.end(), *event.token) != stop.end()) {
          engine_->cancel(event.id);
          places.erase(place);
        } else {
          answers[place->second].push_back(*event.token);
        }
      }
    }
    return answers;
  }

  Result<std::vector<double>> step_milliseconds(const Tokens& prompt, int64_t steps, CancelToken& cancel) override {
    if (prompt.empty() || steps < 1) return invalid_argument("latency needs a prompt and at least one step");
    AUTOGLM_ASSIGN_OR_RETURN(const RequestId id,
                             engine_->submit({.prompt = prompt, .max_new_tokens = steps + 1, .ignore_end = true}));
    std::vector<double> times;
    std::vector<Event> events;
    for (bool prefilled = false; !engine_->idle();) {
      events.clear();
      const auto start = std::chrono::steady_clock::now();
      if (Status status = engine_->step(events, &cancel); !status.ok()) return end_all({{id, 0}}, status);
      const double taken = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
      for (const Event& event : events) {
        if (event.finish == Finish::kFailed) return end_all({{id, 0}}, event.status);
        if (!event.token) continue;
        if (prefilled) times.push_back(taken);
        prefilled = true;
      }
    }
    if (times.empty()) return invalid_argument("latency needs a prompt that leaves room for a step");
    return times;
  }

 private:
  /// Ends what is under way, so that the scorer can be used again; returns `why`.
  Status end_all(const std::map<RequestId, size_t>& requests, const Status& why) {
    for (const auto& [id, place] : requests) engine_->cancel(id);
    std::vector<Event> ignored;
    const Status status = engine_->step(ignored);
    return status.ok() ? why : status.with_context(why.message());
  }

  std::unique_ptr<Engine> engine_;
  int64_t max_ram_;
};

}  // namespace

Result<std::unique_ptr<eval::Scorer>> make_runtime_scorer(const std::filesystem::path& folder,
                                                          const RuntimeScorerOptions& options,
                                                          const CancelToken* cancel) {
  const EngineOptions how{.compute = options.compute,
                          .kv = options.kv,
                          .threads = options.threads,
                          .max_sequences = options.at_once,
                          .max_ram = options.max_ram,
                          .kv_tokens = options.at_once * kCacheTokens};
  AUTOGLM_ASSIGN_OR_RETURN(auto engine, Engine::create(folder, nullptr, how, cancel));
  return std::unique_ptr<eval::Scorer>(std::make_unique<RuntimeScorer>(std::move(engine), options.max_ram));
}

}  // namespace autoglm::engine
