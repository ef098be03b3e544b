#include "runtime/score/runtime_scorer.h"

#include <gmock/gmock.h>

#include "core/base/memory.h"
#include "runtime/engine/testing.h"

namespace autoglm::engine {
namespace {

using eval::Tokens;
using testing::HasSubstr;

std::unique_ptr<eval::Scorer> scorer_of(const std::string& family) {
  return must(make_runtime_scorer(tiny_folder(family), {.threads = 2}));
}

class RuntimeScorerTest : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Tiny, RuntimeScorerTest, testing::ValuesIn(kTinyFamilies),
                         [](const auto& info) { return info.param; });

TEST_P(RuntimeScorerTest, GivesTheLogitsOfHuggingFace) {
  const auto scorer = scorer_of(GetParam());
  CancelToken cancel;
  const auto batch = must(scorer->score({golden_ids(GetParam(), 0), golden_ids(GetParam(), 1)}, cancel));
  const std::vector<float> expected = golden(GetParam(), "logits");
  const auto vocab = static_cast<size_t>(scorer->vocab_size());
  for (int64_t row = 0; row < 2; ++row) {
    constexpr int64_t kFirst = 5, kCount = 7;  // a piece from the middle
    std::vector<float> found(kCount * vocab);
    ASSERT_TRUE(batch->logits(row, kFirst, kCount, found).ok());
    const auto from = static_cast<size_t>(row * kGoldenTokens + kFirst) * vocab;
    EXPECT_LT(relative_error(found, std::span(expected).subspan(from, found.size())), 1e-3) << row;
  }
}

TEST(RuntimeScorer, ContinuesEachPromptAsIfItWereAlone) {
  const auto scorer = scorer_of("glm4");
  CancelToken cancel;
  std::vector<Tokens> prompts;
  for (int64_t i = 0; i < 11; ++i) {  // more than run at once
    Tokens prompt = golden_ids("glm4", i % 2);
    prompt.resize(static_cast<size_t>(3 + i));
    prompts.push_back(prompt);
  }
  const auto answers = must(scorer->generate(prompts, 6, {}, cancel));
  ASSERT_EQ(answers.size(), prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto alone = must(scorer->generate({prompts[i]}, 6, {}, cancel));
    EXPECT_EQ(answers[i], alone[0]) << i;
    ASSERT_EQ(alone[0].size(), 6u);
    const auto ended = must(scorer->generate({prompts[i]}, 6, {alone[0][3]}, cancel));
    EXPECT_LE(ended[0].size(), 3u) << "ends before the first of its stop tokens";
    EXPECT_TRUE(std::equal(ended[0].begin(), ended[0].end(), alone[0].begin()));
  }
}

TEST(RuntimeScorer, KeepsToItsMemory) {
  CancelToken cancel;
  const int64_t now = current_rss_bytes();
  const auto scorer = must(make_runtime_scorer(tiny_folder("glm4"), {.threads = 1, .max_ram = now + 200'000'000}));
  EXPECT_TRUE(scorer->can_score(1000).ok());
  EXPECT_THAT(scorer->can_score(10'000'000).message(), HasSubstr("the states of 10000000 tokens need"));
  EXPECT_EQ(make_runtime_scorer(tiny_folder("glm4"), {.threads = 1, .max_ram = 1}).status().code(),
            StatusCode::kResourceExhausted);
}

TEST(RuntimeScorer, EightBitInputsStayClose) {
  CancelToken cancel;
  const Tokens tokens = golden_ids("glm4", 0);
  const auto logits_by = [&](kernels::Compute compute) {
    const auto scorer = must(make_runtime_scorer(tiny_folder("glm4"), {.compute = compute, .threads = 1}));
    std::vector<float> out(tokens.size() * static_cast<size_t>(scorer->vocab_size()));
    EXPECT_TRUE(must(scorer->score({tokens}, cancel))->logits(0, 0, std::ssize(tokens), out).ok());
    return out;
  };
  EXPECT_LT(relative_error(logits_by(kernels::Compute::kInt8), logits_by(kernels::Compute::kFloat)), 0.05);
}

TEST(RuntimeScorer, TimesSteps) {
  const auto scorer = scorer_of("qwen3");
  CancelToken cancel;
  const std::vector<double> times = must(scorer->step_milliseconds({1, 2, 3}, 5, cancel));
  EXPECT_EQ(times.size(), 5u);
  for (const double ms : times) EXPECT_GT(ms, 0);
  EXPECT_EQ(scorer->step_milliseconds({}, 5, cancel).status().code(), StatusCode::kInvalidArgument);
}

TEST(RuntimeScorer, RefusesOneByOneAndGoesOn) {
  const auto scorer = scorer_of("glm4");
  CancelToken cancel;
  const Tokens good = golden_ids("glm4", 0);
  EXPECT_THAT(scorer->score({good, {}}, cancel).status().message(), HasSubstr("the prompt is empty"));
  EXPECT_THAT(scorer->score({{1, 1 << 20}}, cancel).status().message(), HasSubstr("outside the vocabulary"));
  EXPECT_THAT(scorer->generate({good, {}}, 4, {}, cancel).status().message(), HasSubstr("the prompt is empty"));
  CancelToken stopped;
  stopped.cancel();
  EXPECT_EQ(scorer->score({good}, stopped).status().code(), StatusCode::kCancelled);
  EXPECT_EQ(scorer->generate({good}, 4, {}, stopped).status().code(), StatusCode::kCancelled);
  EXPECT_EQ(must(scorer->generate({good}, 4, {}, cancel))[0].size(), 4u);
  const auto batch = must(scorer->score({good}, cancel));
  std::vector<float> row(static_cast<size_t>(scorer->vocab_size()));
  EXPECT_TRUE(batch->logits(0, std::ssize(good) - 1, 1, row).ok());
  EXPECT_EQ(batch->logits(0, std::ssize(good), 1, row).code(), StatusCode::kInternal);
  EXPECT_EQ(batch->logits(1, 0, 1, row).code(), StatusCode::kInternal);
}

}  // namespace
}  // namespace autoglm::engine
