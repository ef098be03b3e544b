#include "compress/model/torch_scorer.h"

#include <gmock/gmock.h>

#include <thread>

#include "compress/model/generator.h"
#include "compress/model/testing.h"

namespace autoglm::model {
namespace {

using eval::Tokens;

std::vector<Tokens> golden_prompts(const std::string& family, const std::vector<int64_t>& lengths) {
  const at::Tensor ids = golden(family, "input_ids");
  std::vector<Tokens> prompts;
  for (size_t i = 0; i < lengths.size(); ++i) {
    Tokens tokens;
    for (int64_t j = 0; j < lengths[i]; ++j) tokens.push_back(ids[static_cast<int64_t>(i % 2)][j].item<int32_t>());
    prompts.push_back(std::move(tokens));
  }
  return prompts;
}

class ScorerTest : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Tiny, ScorerTest, testing::ValuesIn(kTinyFamilies),
                         [](const auto& info) { return info.param; });

TEST_P(ScorerTest, LogitsAreThoseOfHuggingFaceHoweverTheyAreAskedFor) {
  const Decoder decoder = open_decoder(tiny_folder(GetParam()));
  const std::vector<int64_t> lengths = {24, 9, 24, 9, 24, 1, 17};
  const auto sequences = golden_prompts(GetParam(), lengths);
  const at::Tensor logits = golden(GetParam(), "logits");
  const int64_t vocab = logits.size(2);
  CancelToken cancel;
  // Batches of two sequences with the head streamed; all at once with the head kept.
  for (const TorchScorerOptions& options :
       {TorchScorerOptions{.max_bytes = 1, .tokens_at_once = 50}, TorchScorerOptions{}}) {
    const auto scorer = make_torch_scorer(decoder, options);
    EXPECT_EQ(scorer->vocab_size(), vocab);
    const auto batch = scorer->score(sequences, cancel).value();
    for (size_t i = 0; i < lengths.size(); ++i) {
      for (const int64_t step : {lengths[i], int64_t{5}}) {
        for (int64_t first = 0; first < lengths[i]; first += step) {
          const int64_t count = std::min(step, lengths[i] - first);
          const at::Tensor out = at::empty({count, vocab});
          ASSERT_TRUE(batch
                          ->logits(static_cast<int64_t>(i), first, count,
                                   {out.data_ptr<float>(), static_cast<size_t>(count * vocab)})
                          .ok());
          EXPECT_LT(relative_error(out, logits[static_cast<int64_t>(i % 2)].narrow(0, first, count)), 1e-5)
              << i << " " << first;
        }
      }
    }
  }
}

TEST_P(ScorerTest, GeneratesWhatStepByStepArgmaxGives) {
  const Decoder decoder = open_decoder(tiny_folder(GetParam()));
  const auto prompts = golden_prompts(GetParam(), {3, 14, 8, 5, 20});
  CancelToken cancel;
  const auto scorer = make_torch_scorer(decoder, {.prompts_at_once = 3});
  const auto answers = scorer->generate(prompts, 8, {}, cancel).value();
  ASSERT_EQ(answers.size(), prompts.size());
  Generator generator = Generator::create(decoder).value();
  std::vector<Tokens> expected;
  for (const Tokens& prompt : prompts) {
    Tokens tokens;
    at::Tensor next = generator.prefill({prompt}).value();
    for (int i = 0; i < 8; ++i) {
      tokens.push_back(static_cast<int32_t>(next.argmax().item<int64_t>()));
      next = generator.step(std::span(&tokens.back(), 1)).value();
    }
    expected.push_back(tokens);
  }
  EXPECT_EQ(answers, expected);

  // A stop token ends one answer, without it, and leaves the others as they were.
  const int32_t stop = expected[1][3];
  for (Tokens& tokens : expected) tokens.erase(std::find(tokens.begin(), tokens.end(), stop), tokens.end());
  EXPECT_EQ(scorer->generate(prompts, 8, {stop}, cancel).value(), expected);
  EXPECT_EQ(scorer->generate(prompts, 0, {}, cancel).value(), std::vector<Tokens>(prompts.size()));
}

TEST(TorchScorer, ScoresTheSameAfterGenerating) {
  const auto scorer = make_torch_scorer(open_decoder(tiny_folder("glm4_moe")));
  CancelToken cancel;
  ASSERT_TRUE(scorer->generate({{5, 6, 7}}, 2, {}, cancel).ok());
  const auto batch = scorer->score(golden_prompts("glm4_moe", {24}), cancel).value();
  const at::Tensor out = at::empty({24, 320});
  ASSERT_TRUE(batch->logits(0, 0, 24, {out.data_ptr<float>(), 24 * 320}).ok());
  EXPECT_LT(relative_error(out, golden("glm4_moe", "logits")[0]), 1e-5);
}

TEST(TorchScorer, MeasuresLatency) {
  const auto scorer = make_torch_scorer(open_decoder(tiny_folder("glm4")));
  CancelToken cancel;
  const std::vector<double> times = scorer->step_milliseconds({1, 2, 3}, 5, cancel).value();
  EXPECT_EQ(times.size(), 5u);
  for (const double ms : times) EXPECT_GT(ms, 0.001);
  EXPECT_EQ(scorer->step_milliseconds({}, 5, cancel).status().code(), StatusCode::kInvalidArgument);
}

TEST(TorchScorer, RefusesInOneLine) {
  CancelToken cancel;
  const auto scorer = make_torch_scorer(open_decoder(tiny_folder("glm4")), {.max_bytes = 1000});
  EXPECT_EQ(scorer->generate({{1}}, 4, {}, cancel).status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(scorer->step_milliseconds({1}, 4, cancel).status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(scorer->score({{1}, {}}, cancel).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(scorer->score({{1, 320}}, cancel).status().code(), StatusCode::kInvalidArgument);
  const auto batch = scorer->score({{1, 2, 3}}, cancel).value();
  std::vector<float> out(320);
  EXPECT_TRUE(batch->logits(0, 2, 1, out).ok());
  EXPECT_EQ(batch->logits(0, 3, 1, out).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(batch->logits(0, 0, 2, out).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(batch->logits(1, 0, 1, out).code(), StatusCode::kInvalidArgument);
  cancel.cancel();
  EXPECT_EQ(scorer->score({{1, 2}}, cancel).status().code(), StatusCode::kCancelled);
}

TEST(TorchScorer, LoadsNoBlockThatExceedsTheLimit) {
  const Decoder decoder = open_decoder(tiny_folder("glm4_moe"));
  const int64_t states = 24 * decoder.config().hidden_size * static_cast<int64_t>(sizeof(float));
  const int64_t needed = decoder.block_bytes() + states;
  const auto sequences = golden_prompts("glm4_moe", {24});
  CancelToken cancel;
  const auto small = make_torch_scorer(decoder, {.max_bytes = needed - 1, .least_bytes = 0});
  EXPECT_EQ(small->score(sequences, cancel).status().code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(small->can_score(23).ok());
  EXPECT_THAT(small->can_score(24).message(), testing::StartsWith("one block and the states of 24 tokens need "));
  EXPECT_TRUE(make_torch_scorer(decoder, {.max_bytes = needed, .least_bytes = 0})->score(sequences, cancel).ok());
  EXPECT_TRUE(make_torch_scorer(decoder, {.max_bytes = 1})->score(sequences, cancel).ok());
}

TEST(TorchScorer, StopsSoonAfterItWasCancelled) {
  const auto scorer = make_torch_scorer(open_decoder(tiny_folder("glm4")));
  CancelToken cancel;
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    cancel.cancel();
  });
  const auto start = std::chrono::steady_clock::now();
  const Status status = scorer->generate({Tokens(20, 3)}, 1'000'000, {}, cancel).status();
  const auto taken = std::chrono::steady_clock::now() - start;
  other.join();
  EXPECT_EQ(status.code(), StatusCode::kCancelled);
  EXPECT_LT(taken, std::chrono::seconds(3));
}

}  // namespace
}  // namespace autoglm::model
