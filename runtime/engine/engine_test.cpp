#include "runtime/engine/engine.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <new>

#include "core/base/memory.h"
#include "runtime/engine/artifact_testing.h"

namespace {

/// Which allocation of this thread fails, counted from now on; 0: none.
thread_local int64_t failing_allocation = 0;

}  // namespace

void* operator new(size_t size) {
  if (failing_allocation > 0 && --failing_allocation == 0) throw std::bad_alloc();
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void* operator new(size_t size, const std::nothrow_t&) noexcept { return std::malloc(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace autoglm::engine {
namespace {

using testing::HasSubstr;
using Tokens = std::vector<int32_t>;

const std::filesystem::path kDemo = std::filesystem::path(AUTOGLM_SOURCE_DIR) / "models/glm-phone-demo";

std::unique_ptr<Engine> make(const std::filesystem::path& folder, const EngineOptions& options = {},
                             const tokenizer::Tokenizer* tokenizer = nullptr) {
  return must(Engine::create(folder, tokenizer, options));
}

/// A request that goes on whatever the model says.
Request endless(Tokens prompt, int64_t count) {
  return {.prompt = std::move(prompt), .max_new_tokens = count, .ignore_end = true};
}

Tokens prompt_of(const std::string& family, int64_t row, int64_t length) {
  Tokens all = golden_ids(family, row);
  all.resize(static_cast<size_t>(length));
  return all;
}

/// What a sequence of likeliest tokens is, by the forward pass alone.
Tokens greedy(const std::filesystem::path& folder, const Tokens& prompt, int64_t count) {
  Rig rig(folder);
  Rig::Sequence sequence;
  std::vector<float> logits = rig.run({&sequence}, {prompt})[0];
  Tokens tokens;
  while (static_cast<int64_t>(tokens.size()) < count) {
    const auto last = logits.end() - rig.config().vocab_size;
    tokens.push_back(static_cast<int32_t>(std::max_element(last, logits.end()) - last));
    logits = rig.run({&sequence}, {{tokens.back()}})[0];
  }
  return tokens;
}

/// Runs to the end; the events of each request.
std::map<RequestId, std::vector<Event>> drain(Engine& engine) {
  std::map<RequestId, std::vector<Event>> by_request;
  for (int steps = 0; !engine.idle(); ++steps) {
    if (steps > 10000) throw std::runtime_error("the engine does not come to an end");
    std::vector<Event> events;
    EXPECT_TRUE(engine.step(events).ok());
    for (Event& event : events) by_request[event.id].push_back(std::move(event));
  }
  return by_request;
}

Tokens tokens_of(const std::vector<Event>& events) {
  Tokens tokens;
  for (const Event& event : events) {
    if (event.token) tokens.push_back(*event.token);
  }
  return tokens;
}

class EngineTest : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Tiny, EngineTest, testing::ValuesIn(kTinyFamilies),
                         [](const auto& info) { return info.param; });

TEST_P(EngineTest, GreedyTokensAreTheLikeliestOnes) {
  const Tokens prompt = prompt_of(GetParam(), 0, 21);
  const Tokens expected = greedy(tiny_folder(GetParam()), prompt, 12);
  for (const int64_t chunk : {256, 5}) {
    auto engine = make(tiny_folder(GetParam()), {.threads = 2, .prefill_chunk = chunk});
    const Completion done = must(engine->complete(endless(prompt, 12)));
    EXPECT_EQ(done.tokens, expected) << chunk;
    EXPECT_EQ(done.finish, Finish::kLength);
    EXPECT_EQ(done.usage.prompt_tokens, 21);
    EXPECT_EQ(done.usage.new_tokens, 12);
  }
}

TEST_P(EngineTest, SequencesThatRunTogetherDoNotDisturbOneAnother) {
  auto engine = make(tiny_folder(GetParam()), {.threads = 2, .max_sequences = 5, .prefill_chunk = 7});
  std::map<RequestId, Tokens> expected;
  for (int64_t i = 0; i < 8; ++i) {
    const Tokens prompt = prompt_of(GetParam(), i % 2, 1 + 3 * i);
    expected[must(engine->submit(endless(prompt, 3 + i)))] = greedy(tiny_folder(GetParam()), prompt, 3 + i);
  }
  const auto events = drain(*engine);
  ASSERT_EQ(events.size(), 8u);
  for (const auto& [id, tokens] : expected) EXPECT_EQ(tokens_of(events.at(id)), tokens) << id;
}

TEST(Engine, HiddenStatesGiveTheLogitsOfThePromptBesideOtherRequests) {
  auto engine = make(tiny_folder("glm4"), {.threads = 2, .max_sequences = 2, .max_context = 64, .prefill_chunk = 7});
  const Tokens prompt = prompt_of("glm4", 0, 24);
  const auto id = must(engine->submit(endless(prompt, 9)));
  std::vector<Event> events;
  ASSERT_TRUE(engine->step(events).ok());
  const std::vector<float> hidden = must(engine->hidden_states(prompt));
  const auto vocab = static_cast<size_t>(engine->config().vocab_size);
  std::vector<float> logits(prompt.size() * vocab);
  ASSERT_TRUE(engine->logits(hidden, logits).ok());
  std::vector<float> expected = golden("glm4", "logits");
  expected.resize(logits.size());  // of the first row
  EXPECT_LT(relative_error(logits, expected), 1e-3);
  EXPECT_EQ(engine->logits(hidden, std::span(logits).first(vocab)).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(tokens_of(drain(*engine).at(id)), greedy(tiny_folder("glm4"), prompt, 9));
}

TEST(Engine, HiddenStatesNeedPagesAndGiveThemBack) {
  const Tokens prompt = prompt_of("glm4", 0, 24);
  auto engine = make(tiny_folder("glm4"), {.threads = 1, .max_context = 32, .prefill_chunk = 5});  // two pages
  const auto id = must(engine->submit(endless(prompt, 4)));
  std::vector<Event> events;
  ASSERT_TRUE(engine->step(events).ok());
  EXPECT_EQ(engine->hidden_states(prompt).status().code(), StatusCode::kResourceExhausted);
  drain(*engine);
  CancelToken stopped;
  stopped.cancel();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(engine->hidden_states(prompt, &stopped).status().code(), StatusCode::kCancelled);
    EXPECT_TRUE(engine->hidden_states(prompt).ok());
  }
  EXPECT_EQ(engine->hidden_states({}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_GT(id, 0u);
}

TEST(Engine, SharedPrefixesAreReusedAndChangeNothing) {
  auto engine = make(tiny_folder("glm4"), {.threads = 1, .max_sequences = 2});
  Tokens prompt(50);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(i * 13 % 320);
  const Completion first = must(engine->complete(endless(prompt, 8)));
  EXPECT_EQ(first.usage.shared_tokens, 0);
  const Completion again = must(engine->complete(endless(prompt, 8)));
  EXPECT_EQ(again.usage.shared_tokens, 48);
  EXPECT_EQ(again.tokens, first.tokens);

  Tokens other = prompt;
  other[40] ^= 1;  // in the third page
  EXPECT_EQ(must(engine->complete(endless(other, 1))).usage.shared_tokens, 32);
  // What was generated is known too: the conversation goes on without running it again.
  Tokens longer = prompt;
  longer.insert(longer.end(), first.tokens.begin(), first.tokens.end());
  longer.insert(longer.end(), 20, 7);
  const Completion next = must(engine->complete(endless(longer, 8)));
  EXPECT_EQ(next.usage.shared_tokens, 48);
  auto fresh = make(tiny_folder("glm4"), {.threads = 1, .share_prefixes = false});
  EXPECT_EQ(must(fresh->complete(endless(longer, 8))).tokens, next.tokens);
  EXPECT_EQ(must(fresh->complete(endless(longer, 8))).usage.shared_tokens, 0);
}

TEST(Engine, ASmallCacheMakesRequestsWait) {
  // Three pages: 48 tokens.
  const int64_t page = 2 * 3 * 2 * 32 * 16 * 2;
  auto engine = make(tiny_folder("glm4"), {.threads = 1, .max_sequences = 8, .kv_bytes = 3 * page});
  EXPECT_EQ(engine->plan().cache_tokens, 48);
  EXPECT_EQ(engine->plan().cache, 3 * page);
  std::map<RequestId, Tokens> expected;
  for (int64_t i = 0; i < 5; ++i) {
    const Tokens prompt = prompt_of("glm4", i % 2, 10 + i);
    expected[must(engine->submit(endless(prompt, 15)))] = greedy(tiny_folder("glm4"), prompt, 15);
  }
  // A request that can never fit is refused alone.
  const Status refused = engine->submit(endless(prompt_of("glm4", 0, 20), 30)).status();
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.message(), HasSubstr("a cache of 48 tokens"));
  EXPECT_TRUE(engine->submit(endless(prompt_of("glm4", 0, 20), 29)).ok());  // exactly fits: the last is not run
  const auto events = drain(*engine);
  for (const auto& [id, tokens] : expected) EXPECT_EQ(tokens_of(events.at(id)), tokens) << id;
}

TEST(Engine, RefusesBadRequestsAlone) {
  auto engine = make(tiny_folder("glm4"), {.threads = 1, .max_sequences = 2, .max_context = 24});
  const RequestId good = must(engine->submit(endless(prompt_of("glm4", 0, 4), 4)));
  const auto refused = [&](const Request& request) {
    const Status status = engine->submit(request).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message().find('\n'), std::string::npos);
    return status.message();
  };
  EXPECT_THAT(refused({}), HasSubstr("empty"));
  EXPECT_THAT(refused({.prompt = Tokens(25, 1)}), HasSubstr("25 tokens, and the context ends at 24"));
  EXPECT_THAT(refused({.prompt = {1, 320}}), HasSubstr("token id 320"));
  EXPECT_THAT(refused({.prompt = {1, -1}}), HasSubstr("token id -1"));
  EXPECT_THAT(refused({.prompt = {1}, .max_new_tokens = 0}), HasSubstr("max_new_tokens"));
  EXPECT_THAT(refused({.prompt = {1}, .sampler = {.top_p = 2}}), HasSubstr("top_p"));
  EXPECT_THAT(refused({.prompt = {1}, .stop = {"x"}}), HasSubstr("tokenizer"));
  EXPECT_EQ(drain(*engine).at(good).back().finish, Finish::kLength);

  // One token, and as many as the context has: one new token follows.
  EXPECT_EQ(must(engine->complete(endless({5}, 100))).usage.new_tokens, 24);
  EXPECT_EQ(must(engine->complete(endless(Tokens(24, 5), 100))).usage.new_tokens, 1);
}

TEST(Engine, OneRequestCanBeCancelledWhileOthersRun) {
  auto engine = make(tiny_folder("glm4"), {.threads = 1, .max_sequences = 2});
  const RequestId a = must(engine->submit(endless(prompt_of("glm4", 0, 9), 40)));
  const RequestId b = must(engine->submit(endless(prompt_of("glm4", 1, 9), 12)));
  const RequestId waiting = must(engine->submit(endless(prompt_of("glm4", 1, 3), 5)));
  std::vector<Event> events;
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(engine->step(events).ok());
  engine->cancel(a);
  engine->cancel(waiting);
  engine->cancel(12345);
  auto rest = drain(*engine);
  ASSERT_EQ(rest.at(a).size(), 1u);
  EXPECT_EQ(rest.at(a)[0].finish, Finish::kCancelled);
  EXPECT_EQ(rest.at(a)[0].usage.new_tokens, 5);
  EXPECT_EQ(rest.at(waiting)[0].finish, Finish::kCancelled);
  EXPECT_EQ(rest.at(b).back().finish, Finish::kLength);
  EXPECT_EQ(rest.at(b).back().usage.new_tokens, 12);
}

TEST(Engine, ACancelTokenStopsACompletionAndLeavesTheEngineWhole) {
  auto engine = make(tiny_folder("glm4"), {.threads = 1});
  const Tokens prompt = prompt_of("glm4", 0, 9);
  const Tokens expected = must(engine->complete(endless(prompt, 6))).tokens;
  CancelToken cancel;
  cancel.cancel();
  EXPECT_EQ(engine->complete(endless(prompt, 6), {}, &cancel).status().code(), StatusCode::kCancelled);
  EXPECT_TRUE(engine->idle());
  EXPECT_EQ(must(engine->complete(endless(prompt, 6))).tokens, expected);
}

TEST(Engine, EndTokensAndBiasesAreObeyed) {
  auto engine = make(tiny_folder("llama"), {.threads = 1});
  ASSERT_FALSE(engine->config().eos_token_ids.empty());
  const auto end = static_cast<int32_t>(engine->config().eos_token_ids[0]);
  Request request = {.prompt = prompt_of("llama", 0, 5), .max_new_tokens = 9};
  request.sampler.logit_bias = {{end, 100.0F}};
  const Completion done = must(engine->complete(request));
  EXPECT_EQ(done.finish, Finish::kEnd);
  EXPECT_TRUE(done.tokens.empty());
  request.ignore_end = true;
  EXPECT_EQ(must(engine->complete(request)).tokens, Tokens(9, end));
}

TEST(Engine, SampledTokensDependOnTheSeedAlone) {
  auto engine = make(tiny_folder("qwen3"), {.threads = 2, .max_sequences = 4});
  Request request = endless(prompt_of("qwen3", 0, 8), 20);
  request.sampler = {.temperature = 1, .top_k = 50, .seed = 4};
  const Tokens alone = must(engine->complete(request)).tokens;
  std::vector<RequestId> ids;
  for (uint64_t seed = 3; seed < 7; ++seed) {
    request.sampler.seed = seed;
    ids.push_back(must(engine->submit(request)));
  }
  const auto events = drain(*engine);
  EXPECT_EQ(tokens_of(events.at(ids[1])), alone);
  EXPECT_NE(tokens_of(events.at(ids[0])), alone);
}

TEST(Engine, NumbersThatAreNoneFailTheRequestAlone) {
  const ScratchFolder copy(tiny_folder("qwen3"));
  const auto file = copy.path() / "model.safetensors";
  const int64_t offset = must(format::SafetensorsFile::open(file)).find("model.embed_tokens.weight")->offset;
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  const float nan = std::nanf("");
  stream.seekp(offset + 7 * 128 * 4);
  stream.write(reinterpret_cast<const char*>(&nan), sizeof nan);
  stream.close();
  auto engine = make(copy.path(), {.threads = 1, .max_sequences = 2});
  const RequestId bad = must(engine->submit(endless({7, 3}, 4))), good = must(engine->submit(endless({3, 4}, 4)));
  const auto events = drain(*engine);
  EXPECT_EQ(events.at(bad).back().finish, Finish::kFailed);
  EXPECT_EQ(events.at(bad).back().status.code(), StatusCode::kBadInput);
  EXPECT_THAT(events.at(bad).back().status.message(), HasSubstr("NaN"));
  EXPECT_EQ(events.at(good).back().usage.new_tokens, 4);
}

TEST(Engine, AnEmbeddingThatCannotBeReadFailsTheRequestAlone) {
  nlohmann::ordered_json scheme = linear(weights(8, true, "channel"));
  scheme["targets"] = {"Embedding"};
  const Artifact artifact("glm4", config(scheme, {}));
  const auto file = artifact.quantized.path() / "model.safetensors";
  const int64_t scales = must(format::SafetensorsFile::open(file)).find("model.embed_tokens.weight_scale")->offset;
  const float nan = std::nanf("");
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(scales + 7 * 4);
  stream.write(reinterpret_cast<const char*>(&nan), sizeof nan);
  stream.close();
  auto engine = make(artifact.quantized.path(), {.threads = 1, .max_sequences = 3});
  const RequestId first = must(engine->submit(endless({3, 4}, 4))), bad = must(engine->submit(endless({3, 7}, 4)));
  const RequestId last = must(engine->submit(endless({5}, 4)));
  const auto events = drain(*engine);
  EXPECT_EQ(events.at(bad).back().finish, Finish::kFailed);
  EXPECT_THAT(events.at(bad).back().status.message(), HasSubstr("model.embed_tokens.weight_scale"));
  for (const RequestId id : {first, last}) EXPECT_EQ(events.at(id).back().usage.new_tokens, 4);
}

TEST(Engine, EventsOfAStepFollowThoseOfTheSteps) {
  auto engine = make(tiny_folder("glm4"), {.threads = 1});
  const RequestId id = must(engine->submit(endless({3, 4}, 100)));
  std::vector<Event> events;
  ASSERT_TRUE(engine->step(events).ok());
  ASSERT_EQ(events.size(), 1u);
  engine->cancel(id);
  ASSERT_TRUE(engine->step(events).ok());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_FALSE(events[0].finish);
  EXPECT_EQ(events[1].finish, Finish::kCancelled);
}

/// Three requests of which two begin alike, beside one another; their texts, or none where memory lacked.
struct Together {
  std::map<RequestId, Tokens> tokens;
  std::map<RequestId, int> ends, failures;
  bool was_short = false;  ///< of memory, somewhere

  Together(Engine& engine, int64_t failing) {
    for (const Tokens& prompt : {Tokens(20, 3), Tokens(19, 3), Tokens{5, 6}}) {
      Request request = endless(prompt, 5);
      request.sampler = {.temperature = 1, .top_p = 0.9, .repetition_penalty = 1.1};
      EXPECT_TRUE(engine.submit(request).ok());
    }
    std::vector<Event> events;
    failing_allocation = failing;
    for (int steps = 0; !engine.idle() && steps < 1000; ++steps) {
      const Status status = engine.step(events);
      if (status.ok()) continue;
      was_short = true;
      EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.message();
    }
    was_short |= failing > 0 && failing_allocation == 0;
    failing_allocation = 0;
    for (const Event& event : events) {
      if (event.token) tokens[event.id].push_back(*event.token);
      if (!event.finish) continue;
      ++ends[event.id];
      if (*event.finish == Finish::kFailed) ++failures[event.id];
    }
  }
};

TEST(Engine, LacksMemoryAnywhereAndGoesOn) {
  const EngineOptions options = {
      .threads = 1, .max_sequences = 3, .max_context = 96, .kv_tokens = 96, .prefill_chunk = 16};
  const Together expected(*make(tiny_folder("glm4"), options), 0);
  ASSERT_EQ(expected.ends.size(), 3u);
  int64_t failing = 1;
  for (;; failing += failing < 100 ? 1 : 7) {
    const auto engine = make(tiny_folder("glm4"), options);
    const Together found(*engine, failing);
    ASSERT_TRUE(engine->idle()) << failing;
    if (!found.was_short) break;
    for (const auto& [id, tokens] : expected.tokens) {
      ASSERT_EQ(found.ends.at(id), 1) << failing;
      if (found.failures.contains(id)) continue;
      ASSERT_EQ(found.tokens.at(id), tokens) << failing;
    }
    // Every page is back, none twice.
    const RequestId last = must(engine->submit(endless(Tokens(90, 4), 1)));
    ASSERT_EQ(drain(*engine).at(last).back().finish, Finish::kLength) << failing;
  }
  EXPECT_GT(failing, 20);
}

TEST(Engine, MemoryIsPredictedAndLimited) {
  const auto folder = tiny_folder("glm4");
  const MemoryPlan plan = make(folder, {.threads = 1, .max_sequences = 512})->plan();
  EXPECT_GT(plan.weights.mapped, 0);
  EXPECT_EQ(plan.cache_tokens, 512 * 512);
  const Status refused = Engine::create(folder, nullptr, {.threads = 1, .max_ram = 1000}).status();
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.message(), HasSubstr("the limit is 1.00 kB"));
  // Between the least and all, the cache gets what is left. It is large, so that memory that sanitizers take in
  // between does not matter.
  const int64_t limit = current_rss_bytes() + plan.total() - plan.process - plan.cache / 2;
  const auto engine = make(folder, {.threads = 1, .max_sequences = 512, .max_ram = limit});
  EXPECT_LT(engine->plan().cache_tokens, plan.cache_tokens);
  EXPECT_GT(engine->plan().cache_tokens, 0);
  EXPECT_LE(engine->plan().total(), limit);
}

TEST(Engine, RefusesOptionsOutOfRange) {
  const auto message = [](const EngineOptions& options) {
    const Status status = Engine::create(tiny_folder("glm"), nullptr, options).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    return status.message();
  };
  EXPECT_THAT(message({.threads = -1}), HasSubstr("threads is -1"));
  EXPECT_THAT(message({.max_sequences = 0}), HasSubstr("max_sequences"));
  EXPECT_THAT(message({.max_context = 513}), HasSubstr("from 1 to 512"));
  EXPECT_THAT(message({.prefill_chunk = 0}), HasSubstr("prefill_chunk"));
  EXPECT_THAT(message({.max_ram = -1}), HasSubstr("max_ram"));
  EXPECT_EQ(Engine::create("/nonexistent", nullptr, {}).status().code(), StatusCode::kBadInput);
}

class DemoTest : public testing::Test {
 protected:
  std::unique_ptr<tokenizer::Tokenizer> tokenizer_ = must(tokenizer::Tokenizer::load(kDemo));
  std::unique_ptr<Engine> engine_ = make(kDemo, {.threads = 2}, tokenizer_.get());

  Completion complete(const std::string& prompt, std::vector<std::string> stop = {}) {
    return must(engine_->complete(
        {.prompt = tokenizer_->encode(prompt), .max_new_tokens = 32, .stop = std::move(stop), .ignore_end = true}));
  }
};

TEST_F(DemoTest, TextIsThatOfTheTokensAndStopsBeforeAStopString) {
  const Completion whole = complete("App: Clock\n- Save\nTask: tap Save");
  EXPECT_EQ(whole.text, tokenizer_->decode(whole.tokens, true));
  ASSERT_GT(whole.text.size(), 12u);
  const std::string stop = whole.text.substr(5, 4);
  const Completion stopped = complete("App: Clock\n- Save\nTask: tap Save", {"never to be seen", stop});
  EXPECT_EQ(stopped.finish, Finish::kStop);
  EXPECT_EQ(stopped.text, whole.text.substr(0, whole.text.find(stop)));
  EXPECT_LT(stopped.tokens.size(), whole.tokens.size());
}

TEST_F(DemoTest, StreamedPiecesAreTheText) {
  std::string streamed;
  const Completion done =
      must(engine_->complete({.prompt = tokenizer_->encode("Task: \xff\xfe open"), .max_new_tokens = 16},
                             [&](const std::string& piece) { streamed += piece; }));
  EXPECT_EQ(streamed, done.text);
}

}  // namespace
}  // namespace autoglm::engine
