#include "runtime/engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <utility>

#include "core/base/memory.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/engine/stop_filter.h"

namespace autoglm::engine {
namespace {

/// A request under way.
struct Sequence {
  Sequence(RequestId its_id, Request its_request, tokenizer::Sampler its_sampler)
      : id(its_id), request(std::move(its_request)), sampler(std::move(its_sampler)), filter(request.stop) {}

  RequestId id;
  Request request;
  tokenizer::Sampler sampler;
  StopFilter filter;
  std::optional<tokenizer::StreamDecoder> decoder;
  std::vector<int32_t> tokens;  ///< prompt and what was generated
  int64_t cached = 0;           ///< tokens whose keys and values are in the pages
  std::vector<int32_t> pages;
  int64_t reserved = 0;   ///< pages that it may still ask for
  int64_t published = 0;  ///< pages offered for sharing
  bool cancelled = false;
  bool out_of_memory = false;  ///< its last token could not be taken: it ends at the next step
  Usage usage;

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
};

/// Pages of one sequence that ends with its scope; the pool has enough.
struct HeldPages {
  explicit HeldPages(PagePool& its_pool) : pool(its_pool) {}
  HeldPages(const HeldPages&) = delete;
  HeldPages& operator=(const HeldPages&) = delete;
  ~HeldPages() {
    for (const int32_t page : pages) pool.release(page);
  }
  void reach(int64_t tokens) {
    const auto needed = static_cast<size_t>(pool.pages_for(tokens));
    pages.reserve(needed);
    while (pages.size() < needed) pages.push_back(pool.acquire());
  }

  PagePool& pool;
  std::vector<int32_t> pages;
};

}  // namespace

std::string_view to_string(Finish finish) {
  switch (finish) {
    case Finish::kEnd: return "end";
    case Finish::kStop: return "stop";
    case Finish::kLength: return "length";
    case Finish::kCancelled: return "cancelled";
    case Finish::kFailed: return "failed";
  }
  return "unknown";
}

struct Engine::Impl {
  Impl(const EngineOptions& its_options, const MemoryPlan& its_plan, std::unique_ptr<kernels::ThreadPool> its_pool,
       const kernels::Kernels& its_kernels, std::unique_ptr<Model> its_model, KvCache its_cache,
       const tokenizer::Tokenizer* its_tokenizer)
      : options(its_options),
        plan(its_plan),
        threads(std::move(its_pool)),
        kernels(its_kernels),
        model(std::move(its_model)),
        cache(std::move(its_cache)),
        tokenizer(its_tokenizer),
        forward(*model, cache, kernels, *threads, options.compute) {}

  EngineOptions options;
  MemoryPlan plan;
  std::unique_ptr<kernels::ThreadPool> threads;
  const kernels::Kernels& kernels;
  std::unique_ptr<Model> model;
  KvCache cache;
  const tokenizer::Tokenizer* tokenizer;
  Forward forward;

  std::deque<Sequence> waiting;
  std::vector<Sequence> running;
  int64_t reserved = 0;  ///< pages promised to running sequences and not yet taken
  RequestId last_id = 0;
  size_t first_event = 0;  ///< of this step
  std::vector<float> hidden, logits;
  tokenizer::SamplerScratch scratch;

  PagePool& pages() { return cache.pool(); }
  /// Tokens that the cache must hold for a request: the last token that is generated is not run.
  int64_t cached_tokens(const Request& request) const {
    return static_cast<int64_t>(request.prompt.size()) + request.max_new_tokens - 1;
  }
  Status check_prompt(std::span<const int32_t> tokens) const;
  Status check(const Request& request) const;
  bool admit(Sequence& sequence);
  void release(Sequence& sequence);
  void finish(Sequence& sequence, Finish how, Status status, std::vector<Event>& events);
  void end_marked(std::vector<Event>& events);
  void publish(Sequence& sequence);
  Status run_batch(std::vector<Event>& events, const CancelToken* cancel);
  Status end_unreadable(const Status& failure, std::vector<Event>& events);
  void take_token(Sequence& sequence, std::span<float> row, std::vector<Event>& events);
};

Status Engine::Impl::check_prompt(std::span<const int32_t> tokens) const {
  const int64_t vocab = model->config().vocab_size, length = static_cast<int64_t>(tokens.size());
  if (length == 0) return invalid_argument("the prompt is empty: there is nothing to continue");
  if (length > options.max_context) {
    return invalid_argument(
        fmt::format("the prompt has {} tokens, and the context ends at {}", length, options.max_context));
  }
  for (const int32_t token : tokens) {
    if (token >= 0 && token < vocab) continue;
    return invalid_argument(fmt::format("token id {} is outside the vocabulary of {}", token, vocab));
  }
  return ok_status();
}

Status Engine::Impl::check(const Request& request) const {
  AUTOGLM_RETURN_IF_ERROR(check_prompt(request.prompt));
  if (request.max_new_tokens < 1) {
    return invalid_argument(fmt::format("max_new_tokens is {}, must be at least 1", request.max_new_tokens));
  }
  if (tokenizer == nullptr && !request.stop.empty()) {
    return invalid_argument("stop texts need the model's tokenizer, which was not loaded");
  }
  return ok_status();
}

Result<RequestId> Engine::submit(Request request) try {
  Impl& impl = *impl_;
  AUTOGLM_RETURN_IF_ERROR(impl.check(request));
  const int64_t room = impl.options.max_context - static_cast<int64_t>(request.prompt.size()) + 1;
  request.max_new_tokens = std::min(request.max_new_tokens, room);
  const int64_t needed = impl.cached_tokens(request), held = impl.pages().pages() * impl.pages().page_tokens();
  if (needed > held) {
    return resource_exhausted(
        fmt::format("a prompt of {} tokens and up to {} new ones do not fit into a cache of {} tokens; ask for fewer "
                    "new tokens or give more memory",
                    request.prompt.size(), request.max_new_tokens, held));
  }
  AUTOGLM_ASSIGN_OR_RETURN(auto sampler, tokenizer::Sampler::create(request.sampler, impl.model->config().vocab_size));
  Sequence sequence(++impl.last_id, std::move(request), std::move(sampler));
  sequence.tokens = sequence.request.prompt;
  sequence.usage.prompt_tokens = sequence.size();
  for (const int32_t token : sequence.tokens) sequence.sampler.observe(token);
  if (impl.tokenizer != nullptr) sequence.decoder.emplace(*impl.tokenizer);
  impl.waiting.push_back(std::move(sequence));
  return impl.last_id;
} catch (const std::bad_alloc&) {
  return resource_exhausted("not enough memory to take the request");
}

/// Takes shared pages and reserves the others; false when there are too few.
bool Engine::Impl::admit(Sequence& sequence) {
  std::vector<int32_t> shared;
  if (options.share_prefixes && !model->rotary().varies()) {
    // The last token of a prompt is always run: its logits are wanted.
    shared = pages().find_prefix(std::span(sequence.tokens).first(sequence.tokens.size() - 1));
  }
  const int64_t own = pages().pages_for(cached_tokens(sequence.request)) - static_cast<int64_t>(shared.size());
  if (own + pages().idle(shared) > pages().available() - reserved) return false;
  for (const int32_t page : shared) pages().share(page);
  sequence.cached = static_cast<int64_t>(shared.size()) * pages().page_tokens();
  sequence.published = static_cast<int64_t>(shared.size());
  sequence.usage.shared_tokens = sequence.cached;
  sequence.pages = std::move(shared);
  sequence.reserved = own;
  reserved += own;
  return true;
}

void Engine::Impl::release(Sequence& sequence) {
  // The last first, so that of idle pages the beginnings of prompts stay longest.
  for (auto page = sequence.pages.rbegin(); page != sequence.pages.rend(); ++page) pages().release(*page);
  sequence.pages.clear();
  reserved -= sequence.reserved;
  sequence.reserved = 0;
}

void Engine::Impl::finish(Sequence& sequence, Finish how, Status status, std::vector<Event>& events) {
  if (events.size() <= first_event || events.back().id != sequence.id) events.push_back({.id = sequence.id});
  Event& event = events.back();
  if (sequence.decoder && !sequence.filter.stopped()) {
    event.text += sequence.filter.push(sequence.decoder->finish());
    if (sequence.filter.stopped()) {
      how = Finish::kStop;
    } else {
      event.text += sequence.filter.finish();
    }
  }
  event.finish = how;
  event.status = std::move(status);
  event.usage = sequence.usage;
  release(sequence);
  sequence.id = 0;  // run_batch and end_marked remove it
}

void Engine::Impl::end_marked(std::vector<Event>& events) {
  const auto sweep = [&](auto& sequences) {
    for (Sequence& sequence : sequences) {
      if (sequence.id == 0) continue;  // ended, before another could not be for want of memory
      if (sequence.cancelled) {
        finish(sequence, Finish::kCancelled, cancelled(), events);
      } else if (sequence.out_of_memory) {
        finish(sequence, Finish::kFailed, resource_exhausted("not enough memory to go on with this request"), events);
      }
    }
    std::erase_if(sequences, [](const Sequence& sequence) { return sequence.id == 0; });
  };
  sweep(running);
  sweep(waiting);
}

void Engine::Impl::publish(Sequence& sequence) {
  if (!options.share_prefixes || model->rotary().varies()) return;
  const int64_t step = pages().page_tokens();
  for (int64_t& i = sequence.published; (i + 1) * step <= sequence.cached; ++i) {
    const int32_t before = i == 0 ? -1 : sequence.pages[static_cast<size_t>(i) - 1];
    pages().publish(sequence.pages[static_cast<size_t>(i)], before,
                    std::span(sequence.tokens).subspan(static_cast<size_t>(i * step), static_cast<size_t>(step)));
  }
}

void Engine::Impl::take_token(Sequence& sequence, std::span<float> row, std::vector<Event>& events) {
  const Result<int32_t> sampled = sequence.sampler.sample(row, scratch);
  if (!sampled.ok()) return finish(sequence, Finish::kFailed, sampled.status(), events);
  const int32_t token = *sampled;
  const std::vector<int64_t>& ends = model->config().eos_token_ids;
  if (!sequence.request.ignore_end && std::find(ends.begin(), ends.end(), token) != ends.end()) {
    return finish(sequence, Finish::kEnd, ok_status(), events);
  }
  sequence.sampler.observe(token);
  sequence.tokens.push_back(token);
  ++sequence.usage.new_tokens;
  events.push_back({.id = sequence.id, .token = token});
  if (sequence.decoder) events.back().text = sequence.filter.push(sequence.decoder->push(token));
  if (sequence.filter.stopped()) return finish(sequence, Finish::kStop, ok_status(), events);
  if (sequence.usage.new_tokens == sequence.request.max_new_tokens) {
    finish(sequence, Finish::kLength, ok_status(), events);
  }
}

Status Engine::Impl::run_batch(std::vector<Event>& events, const CancelToken* cancel) {
  struct Part {
    Sequence* sequence;
    int64_t count;
  };
  std::vector<Part> parts;
  std::vector<TokenRun> runs;
  int64_t budget = options.prefill_chunk;
  for (Sequence& sequence : running) {
    const int64_t left = sequence.size() - sequence.cached;
    const int64_t count = left == 1 ? 1 : std::min(left, budget);
    if (count == 0) continue;
    if (left > 1) budget -= count;
    const int64_t needed = pages().pages_for(sequence.cached + count);
    sequence.pages.reserve(static_cast<size_t>(needed));
    while (static_cast<int64_t>(sequence.pages.size()) < needed) {
      const int32_t page = pages().acquire();
      if (page < 0) return internal_error("the key-value cache has fewer pages than it promised");
      sequence.pages.push_back(page);
      --sequence.reserved;
      --reserved;
    }
    parts.push_back({&sequence, count});
    const auto tokens = std::span(sequence.tokens).subspan(static_cast<size_t>(sequence.cached));
    runs.push_back({.tokens = tokens.first(static_cast<size_t>(count)),
                    .first_position = sequence.cached,
                    .length = static_cast<int64_t>(sequence.request.prompt.size()),
                    .pages = sequence.pages});
  }
  if (runs.empty()) return ok_status();

  const int64_t n = model->config().hidden_size, vocab = model->config().vocab_size;
  hidden.resize(runs.size() * static_cast<size_t>(n));
  if (Status status = forward.run(runs, Rows::kLast, hidden, cancel); !status.ok()) {
    return status.code() == StatusCode::kBadInput ? end_unreadable(status, events) : status;
  }
  // Nothing is counted as done before all that may lack memory is: a step that fails can be taken again.
  std::vector<Sequence*> ready;  // that want a next token
  for (size_t i = 0; i < parts.size(); ++i) {
    Sequence& sequence = *parts[i].sequence;
    if (sequence.cached + parts[i].count < sequence.size()) continue;
    std::copy_n(hidden.data() + static_cast<int64_t>(i) * n, n, hidden.data() + static_cast<int64_t>(ready.size()) * n);
    ready.push_back(&sequence);
  }
  if (!ready.empty()) {
    logits.resize(ready.size() * static_cast<size_t>(vocab));
    forward.logits(hidden.data(), static_cast<int64_t>(ready.size()), logits.data());
  }
  for (const Part& part : parts) {
    part.sequence->cached += part.count;
    try {
      publish(*part.sequence);
    } catch (const std::bad_alloc&) {
      // Then it is not shared yet.
    }
  }
  for (size_t i = 0; i < ready.size(); ++i) {
    try {
      take_token(*ready[i], std::span(logits).subspan(i * static_cast<size_t>(vocab), static_cast<size_t>(vocab)),
                 events);
    } catch (const std::bad_alloc&) {
      ready[i]->out_of_memory = true;
    }
  }
  std::erase_if(running, [](const Sequence& sequence) { return sequence.id == 0; });
  return ok_status();
}

/// Ends the sequences that have a token whose embedding cannot be read; the others run in the next step.
Status Engine::Impl::end_unreadable(const Status& failure, std::vector<Event>& events) {
  const size_t before = running.size();
  std::vector<float> row(static_cast<size_t>(model->config().hidden_size));
  for (Sequence& sequence : running) {
    for (int64_t i = sequence.cached; i < sequence.size(); ++i) {
      Status status = model->weights().embedding_row(sequence.tokens[static_cast<size_t>(i)], row);
      if (status.ok()) continue;
      finish(sequence, Finish::kFailed, std::move(status), events);
      break;
    }
  }
  std::erase_if(running, [](const Sequence& sequence) { return sequence.id == 0; });
  return running.size() < before ? ok_status() : failure;
}

Status Engine::step(std::vector<Event>& events, const CancelToken* cancel) {
  try {
    Impl& impl = *impl_;
    impl.first_event = events.size();
    impl.end_marked(events);
    if (cancel != nullptr) AUTOGLM_RETURN_IF_ERROR(cancel->check());
    impl.running.reserve(
        std::min(impl.running.size() + impl.waiting.size(), static_cast<size_t>(impl.options.max_sequences)));
    while (!impl.waiting.empty() && static_cast<int64_t>(impl.running.size()) < impl.options.max_sequences &&
           impl.admit(impl.waiting.front())) {
      impl.running.push_back(std::move(impl.waiting.front()));
      impl.waiting.pop_front();
    }
    return impl.run_batch(events, cancel);
  } catch (const std::bad_alloc&) {
    return resource_exhausted("not enough memory for this batch");
  } catch (const std::exception& error) {
    return internal_error(error.what());
  }
}

Result<std::vector<float>> Engine::hidden_states(std::span<const int32_t> tokens, const CancelToken* cancel) {
  try {
    Impl& impl = *impl_;
    AUTOGLM_RETURN_IF_ERROR(impl.check_prompt(tokens));
    const auto length = static_cast<int64_t>(tokens.size()), n = impl.model->config().hidden_size;
    const int64_t needed = impl.pages().pages_for(length), free = impl.pages().available() - impl.reserved;
    if (needed > free) {
      return resource_exhausted(fmt::format("{} tokens do not fit into what is left of the cache, {} tokens", length,
                                            free * impl.pages().page_tokens()));
    }
    std::vector<float> hidden(static_cast<size_t>(length * n));
    HeldPages held(impl.pages());
    for (int64_t first = 0; first < length; first += impl.options.prefill_chunk) {
      const int64_t count = std::min(impl.options.prefill_chunk, length - first);
      held.reach(first + count);
      const TokenRun run = {.tokens = tokens.subspan(static_cast<size_t>(first), static_cast<size_t>(count)),
                            .first_position = first,
                            .length = length,
                            .pages = held.pages};
      const auto out = std::span(hidden).subspan(static_cast<size_t>(first * n), static_cast<size_t>(count * n));
      AUTOGLM_RETURN_IF_ERROR(impl.forward.run({&run, 1}, Rows::kAll, out, cancel));
    }
    return hidden;
  } catch (const std::bad_alloc&) {
    return resource_exhausted(fmt::format("not enough memory for {} tokens", tokens.size()));
  } catch (const std::exception& error) {
    return internal_error(error.what());
  }
}

Status Engine::logits(std::span<const float> hidden, std::span<float> out) {
  const auto n = static_cast<size_t>(config().hidden_size), vocab = static_cast<size_t>(config().vocab_size);
  if (hidden.size() % n != 0 || out.size() != hidden.size() / n * vocab) {
    return invalid_argument(fmt::format("{} numbers are not hidden states of {}, or their logits are not {} numbers",
                                        hidden.size(), n, out.size()));
  }
  try {
    impl_->forward.logits(hidden.data(), static_cast<int64_t>(hidden.size() / n), out.data());
    return ok_status();
  } catch (const std::bad_alloc&) {
    return resource_exhausted("not enough memory for logits");
  }
}

void Engine::cancel(RequestId id) {
  const auto mark = [&](auto& sequences) {
    for (Sequence& sequence : sequences) {
      if (sequence.id == id) sequence.cancelled = true;
    }
  };
  mark(impl_->running);
  mark(impl_->waiting);
}

Result<Completion> Engine::complete(Request request, const std::function<void(const std::string&)>& on_text,
                                    const CancelToken* cancel) {
  AUTOGLM_ASSIGN_OR_RETURN(const RequestId id, submit(std::move(request)));
  Status failure;
  try {
    Completion done;
    std::vector<Event> events;
    while (true) {
      events.clear();
      failure = step(events, cancel);
      if (!failure.ok()) break;
      for (const Event& event : events) {
        if (event.id != id) continue;
        if (event.token) done.tokens.push_back(*event.token);
        done.text += event.text;
        if (on_text && !event.text.empty()) on_text(event.text);
        if (!event.finish) continue;
        if (*event.finish == Finish::kFailed) return event.status;
        done.finish = *event.finish;
        done.usage = event.usage;
        return done;
      }
    }
  } catch (const std::bad_alloc&) {
    failure = resource_exhausted("not enough memory for the answer");
  }
  this->cancel(id);
  try {
    std::vector<Event> ignored;
    impl_->end_marked(ignored);
  } catch (const std::bad_alloc&) {
    // It ends at the next step.
  }
  return failure;
}

Result<std::unique_ptr<Engine>> Engine::create(const std::filesystem::path& folder,
                                               const tokenizer::Tokenizer* tokenizer, const EngineOptions& asked,
                                               const CancelToken* cancel) {
  try {
    EngineOptions options = asked;
    AUTOGLM_ASSIGN_OR_RETURN(const kernels::Kernels* kernels, kernels::select());
    AUTOGLM_ASSIGN_OR_RETURN(std::unique_ptr<const Weights> weights, Weights::open(folder));
    AUTOGLM_ASSIGN_OR_RETURN(const MemoryPlan plan, plan_memory(*weights, options));
    auto pool = std::make_unique<kernels::ThreadPool>(options.threads);
    AUTOGLM_ASSIGN_OR_RETURN(auto model, Model::load(std::move(weights), *pool, cancel));
    const kernels::KvLayout layout = kv_layout(model->config(), options.kv);
    AUTOGLM_ASSIGN_OR_RETURN(KvCache cache, KvCache::create(layout, model->config().num_hidden_layers,
                                                            plan.cache_tokens / layout.page_tokens));
    return std::unique_ptr<Engine>(new Engine(std::make_unique<Impl>(options, plan, std::move(pool), *kernels,
                                                                     std::move(model), std::move(cache), tokenizer)));
  } catch (const std::bad_alloc&) {
    return resource_exhausted("not enough memory to load the model");
  } catch (const std::exception& error) {
    return internal_error(error.what());
  }
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

const format::ModelConfig& Engine::config() const { return impl_->model->config(); }
const MemoryPlan& Engine::plan() const { return impl_->plan; }
int64_t Engine::max_context() const { return impl_->options.max_context; }
int Engine::threads() const { return impl_->threads->threads(); }
std::string_view Engine::kernels() const { return impl_->kernels.name; }
bool Engine::idle() const { return impl_->running.empty() && impl_->waiting.empty(); }

}  // namespace autoglm::engine
