#include "runtime/engine/forward.h"

#include <gmock/gmock.h>

#include "runtime/engine/artifact_testing.h"

namespace autoglm::engine {
namespace {

using Tokens = std::vector<int32_t>;

class GoldenTest : public testing::TestWithParam<std::string> {
 protected:
  std::vector<float> expected(int64_t row, int64_t first, int64_t count) const {
    const std::vector<float> all = golden(GetParam(), "logits");
    const int64_t vocab = static_cast<int64_t>(all.size()) / (2 * kGoldenTokens);
    const auto begin = all.begin() + (row * kGoldenTokens + first) * vocab;
    return {begin, begin + count * vocab};
  }
  Tokens ids(int64_t row, int64_t first, int64_t count) const {
    const Tokens all = golden_ids(GetParam(), row);
    return {all.begin() + first, all.begin() + first + count};
  }
};
INSTANTIATE_TEST_SUITE_P(Tiny, GoldenTest, testing::ValuesIn(kTinyFamilies),
                         [](const auto& info) { return info.param; });

TEST_P(GoldenTest, LogitsAreThoseOfHuggingFace) {
  for (const auto& [kv, bound] : {std::pair{kernels::KvType::kF32, 2e-5}, std::pair{kernels::KvType::kF16, 1e-3},
                                  std::pair{kernels::KvType::kInt8, 2e-2}}) {
    Rig rig(tiny_folder(GetParam()), {.kv = kv});
    for (int64_t row = 0; row < 2; ++row) {
      const std::vector<float> logits = rig.run(ids(row, 0, kGoldenTokens));
      EXPECT_LT(relative_error(logits, expected(row, 0, kGoldenTokens)), bound) << static_cast<int>(kv);
    }
  }
}

TEST_P(GoldenTest, HiddenStatesAreThoseOfHuggingFace) {
  Rig rig(tiny_folder(GetParam()), {.kv = kernels::KvType::kF32});
  const Tokens tokens = ids(1, 0, kGoldenTokens);
  const Tokens pages = {3, 1};
  const TokenRun run = {tokens, 0, 0, pages};
  std::vector<float> hidden(static_cast<size_t>(kGoldenTokens * rig.config().hidden_size));
  ASSERT_TRUE(rig.forward.run({&run, 1}, Rows::kAll, hidden).ok());
  const std::vector<float> last = golden(GetParam(), "hidden.3");
  EXPECT_LT(relative_error(hidden, std::span(last).subspan(hidden.size())), 2e-5);
}

TEST_P(GoldenTest, PiecesOfSeveralSequencesGiveTheSameLogits) {
  Rig rig(tiny_folder(GetParam()), {.kv = kernels::KvType::kF32, .threads = 3});
  Rig::Sequence a, b;
  // A prefill in pieces beside one-token steps, joined at different times, with pages taken in turn.
  const auto first = rig.run({&a}, {ids(0, 0, 17)});
  EXPECT_LT(relative_error(first[0], expected(0, 0, 17)), 2e-5);
  const auto mixed = rig.run({&b, &a}, {ids(1, 0, 5), ids(0, 17, 1)});
  EXPECT_LT(relative_error(mixed[0], expected(1, 0, 5)), 2e-5);
  EXPECT_LT(relative_error(mixed[1], expected(0, 17, 1)), 2e-5);
  const auto more = rig.run({&a, &b}, {ids(0, 18, 6), ids(1, 5, 18)});
  EXPECT_LT(relative_error(more[0], expected(0, 18, 6)), 2e-5);
  EXPECT_LT(relative_error(more[1], expected(1, 5, 18)), 2e-5);
  const auto last = rig.run({&b}, {ids(1, 23, 1)});
  EXPECT_LT(relative_error(last[0], expected(1, 23, 1)), 2e-5);
}

TEST_P(GoldenTest, TheNumberOfThreadsChangesNothing) {
  std::vector<float> first;
  for (const int threads : {1, 2, 5}) {
    Rig rig(tiny_folder(GetParam()), {.threads = threads});
    const std::vector<float> logits = rig.run(ids(0, 0, kGoldenTokens));
    if (first.empty()) first = logits;
    EXPECT_EQ(logits, first) << threads;
  }
}

// With six tokens at once processors that have tiles multiply otherwise than with one.
TEST(Forward, ManySequencesTogetherGiveTheLogitsOfEachAlone) {
  const Artifact artifact("glm4_moe", config(linear(weights(4, true, "group", 32))));
  for (const kernels::Compute compute : {kernels::Compute::kFloat, kernels::Compute::kInt8}) {
    const Rig::Options options = {.compute = compute, .kv = kernels::KvType::kF32};
    Rig together(artifact.quantized.path(), options);
    std::vector<Rig::Sequence> sequences(6);
    std::vector<Rig::Sequence*> all;
    std::vector<Tokens> prompts, steps;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const Tokens ids = golden_ids("glm4_moe", static_cast<int64_t>(i % 2));
      all.push_back(&sequences[i]);
      prompts.emplace_back(ids.begin(), ids.begin() + 2 + static_cast<long>(i));
      steps.push_back({ids.back()});
    }
    together.run(all, prompts);
    const auto logits = together.run(all, steps);
    for (size_t i = 0; i < sequences.size(); ++i) {
      Rig alone(artifact.quantized.path(), options);
      Rig::Sequence sequence;
      alone.run({&sequence}, {prompts[i]});
      EXPECT_LT(relative_error(logits[i], alone.run({&sequence}, {steps[i]})[0]), 1e-4) << i;
    }
  }
}

TEST(Forward, LastRowsAreThoseOfAllRows) {
  Rig rig(tiny_folder("glm4"));
  const Tokens a = golden_ids("glm4", 0), b(a.begin(), a.begin() + 3), pages_a = {0, 1}, pages_b = {2};
  const TokenRun runs[] = {{a, 0, 0, pages_a}, {b, 0, 0, pages_b}};
  const auto n = static_cast<size_t>(rig.config().hidden_size);
  std::vector<float> all(27 * n), last(2 * n);
  ASSERT_TRUE(rig.forward.run(runs, Rows::kAll, all).ok());
  ASSERT_TRUE(rig.forward.run(runs, Rows::kLast, last).ok());
  EXPECT_TRUE(std::equal(last.begin(), last.begin() + n, all.begin() + 23 * n));
  EXPECT_TRUE(std::equal(last.begin() + n, last.end(), all.begin() + 26 * n));
}

TEST(Forward, ALongSequenceStepByStepIsThatOfOnePass) {
  Rig rig(tiny_folder("glm4"), {.kv = kernels::KvType::kF32});
  Tokens tokens(200);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 7 % 320);
  const std::vector<float> whole = rig.run(tokens);
  Rig::Sequence sequence;
  std::vector<float> next;
  for (const int32_t token : tokens) next = rig.run({&sequence}, {{token}})[0];
  EXPECT_LT(relative_error(next, std::span(whole).last(next.size())), 1e-5);
}

TEST(Forward, ScaledRotaryFollowsTheLengthOfTheSequence) {
  const ScratchFolder copy(tiny_folder("llama"));
  copy.edit_config("\"rope_type\": \"default\"", "\"rope_type\": \"dynamic\", \"factor\": 4.0");
  copy.edit_config("\"max_position_embeddings\": 512", "\"max_position_embeddings\": 8");
  Rig rig(copy.path(), {.kv = kernels::KvType::kF32});
  EXPECT_TRUE(rig.model->rotary().varies());
  const std::vector<float> all = golden("llama", "logits");
  const Tokens ids = golden_ids("llama", 0);
  const size_t vocab = all.size() / 48;
  const std::vector<float> within = rig.run(Tokens(ids.begin(), ids.begin() + 8));
  EXPECT_LT(relative_error(within, std::span(all).first(8 * vocab)), 2e-5);
  EXPECT_GT(relative_error(rig.run(ids), std::span(all).first(24 * vocab)), 1e-3);
}

TEST(Forward, CanBeCancelled) {
  Rig rig(tiny_folder("glm"));
  CancelToken cancel;
  cancel.cancel();
  const Tokens tokens = {1, 2}, pages = {0};
  const TokenRun run = {tokens, 0, 0, pages};
  std::vector<float> hidden(static_cast<size_t>(rig.config().hidden_size));
  EXPECT_EQ(rig.forward.run({&run, 1}, Rows::kLast, hidden, &cancel).code(), StatusCode::kCancelled);
}

}  // namespace
}  // namespace autoglm::engine
