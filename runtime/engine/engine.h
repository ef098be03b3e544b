#pragma once
/// Engine: generates for several requests at once, with continuous batching over a paged key-value cache.
///
///   AUTOGLM_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::load(folder));
///   AUTOGLM_ASSIGN_OR_RETURN(auto engine, Engine::create(folder, tokenizer.get(), {}));
///   AUTOGLM_ASSIGN_OR_RETURN(auto done, engine->complete({.prompt = tokenizer->encode("Hello")}));
///
/// or, for many: submit() each, then step() until idle(). Prompts run in chunks beside the one-token steps of sequences
/// that are further on. A request is admitted when the cache has pages for all that it may become, so that one that
/// runs never lacks memory; until then it waits, first come first served.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/tokenizer/sampler.h"
#include "core/tokenizer/tokenizer.h"
#include "runtime/engine/forward.h"
#include "runtime/engine/model.h"

namespace autoglm::engine {

struct EngineOptions {
  kernels::Compute compute = kernels::Compute::kFloat;  ///< of weight-only layers; W8A8 computes as its scheme says
  kernels::KvType kv = kernels::KvType::kF16;
  int threads = 0;              ///< 0: all cores
  int64_t max_sequences = 1;    ///< that run at once; further ones wait
  int64_t max_context = 0;      ///< tokens of a sequence, prompt included; 0: what the model was trained for
  int64_t max_ram = 0;          ///< bytes that the process may occupy, as the kernel counts them; 0: no limit
  int64_t kv_bytes = 0;         ///< of the cache at most; 0: for max_sequences of max_context, or what max_ram leaves
  int64_t kv_tokens = 0;        ///< the same in tokens of all sequences together; 0: no such bound
  int64_t prefill_chunk = 256;  ///< tokens of prompts in one step
  bool share_prefixes = true;   ///< reuse the pages of sequences that begin alike
};

struct Request {
  std::vector<int32_t> prompt;
  int64_t max_new_tokens = 256;  ///< fewer where the context ends
  tokenizer::SamplerOptions sampler;
  std::vector<std::string> stop;  ///< generation ends before these texts
  bool ignore_end = false;        ///< go on after the model's end tokens (for measurements)
};

enum class Finish { kEnd, kStop, kLength, kCancelled, kFailed };  ///< an end token, a stop text, max_new_tokens, ...
std::string_view to_string(Finish finish);

/// What a finished request took.
struct Usage {
  int64_t prompt_tokens = 0, shared_tokens = 0, new_tokens = 0;  ///< shared: of the prompt, found in the cache
};

using RequestId = uint64_t;

/// What a step did for one request.
struct Event {
  RequestId id = 0;
  std::optional<int32_t> token;  ///< generated in this step; an end token is not reported
  std::string text;              ///< that became certain, possibly none
  std::optional<Finish> finish;  ///< the last event of the request
  Status status;                 ///< of kFailed
  Usage usage;
};

struct Completion {
  std::vector<int32_t> tokens;
  std::string text;
  Finish finish = Finish::kEnd;
  Usage usage;
};

/// What is predicted before anything is loaded.
struct MemoryPlan {
  Weights::Bytes weights;
  int64_t activations = 0;  ///< and what loading needs for a while, what sequences remember, what sampling needs
  int64_t cache = 0, cache_tokens = 0;
  int64_t process = 0;  ///< what the process occupied already
  int64_t total() const { return weights.packed + weights.mapped + activations + cache + process; }
};

/// Not thread-safe: one thread calls (a CancelToken may be set by any).
class Engine {
 public:
  /// `tokenizer` outlives the engine; nullptr: tokens alone, no texts, no stop strings. kResourceExhausted when max_ram
  /// is less than what is predicted, or kv_bytes less than a page; kInvalidArgument: options; kBadInput: the folder.
  static Result<std::unique_ptr<Engine>> create(const std::filesystem::path& folder,
                                                const tokenizer::Tokenizer* tokenizer, const EngineOptions& options,
                                                const CancelToken* cancel = nullptr);
  ~Engine();

  const format::ModelConfig& config() const;
  const MemoryPlan& plan() const;
  int64_t max_context() const;
  int threads() const;
  std::string_view kernels() const;  ///< name of the instruction set

  /// Queues a request. kInvalidArgument: an empty or too long prompt, a token outside the vocabulary, options;
  /// kResourceExhausted: more tokens than the whole cache holds, or no memory for them. Other requests are not touched.
  Result<RequestId> submit(Request request);

  /// Ends a request at the next step, with Finish::kCancelled; unknown ids are ignored.
  void cancel(RequestId id);

  bool idle() const;  ///< nothing runs and nothing waits

  /// Runs one batch and appends what happened to `events`. A request that fails has an event of its own; a Status is
  /// returned only when nothing could be run: kCancelled by `cancel`, kResourceExhausted. Then nothing is lost, and the
  /// next call tries again.
  Status step(std::vector<Event>& events, const CancelToken* cancel = nullptr);

  /// Runs `tokens` alone, beside the requests that are under way: what the last block gives, [tokens, hidden]. Errors
  /// as of submit() and step(); kResourceExhausted: the cache has no room for them now.
  Result<std::vector<float>> hidden_states(std::span<const int32_t> tokens, const CancelToken* cancel = nullptr);

  /// Next-token logits of hidden states: [n, hidden] -> [n, vocabulary]. kInvalidArgument: sizes that do not agree.
  Status logits(std::span<const float> hidden, std::span<float> out);

  /// submit() and step() until this one request is done; `on_text` gets each piece. Others run on beside it, and their
  /// events are lost: meant for an idle engine.
  Result<Completion> complete(Request request, const std::function<void(const std::string&)>& on_text = {},
                              const CancelToken* cancel = nullptr);

 private:
  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace autoglm::engine
