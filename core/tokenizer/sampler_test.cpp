#include "core/tokenizer/sampler.h"

#include <gmock/gmock.h>

#include <cmath>
#include <map>
#include <random>
#include <vector>

namespace autoglm::tokenizer {
namespace {

using testing::HasSubstr;

int32_t draw(Sampler& sampler, std::vector<float> logits) {
  SamplerScratch scratch;
  return sampler.sample(logits, scratch).value();
}

Sampler make(const SamplerOptions& options, int64_t vocab = 5) { return Sampler::create(options, vocab).value(); }

/// Shares of each id over many draws.
std::map<int32_t, double> shares(const SamplerOptions& options, const std::vector<float>& logits, int draws = 20000) {
  Sampler sampler = make(options, static_cast<int64_t>(logits.size()));
  std::map<int32_t, double> counts;
  for (int i = 0; i < draws; ++i) counts[draw(sampler, logits)] += 1.0 / draws;
  return counts;
}

const std::vector<float> kLogits = {std::log(0.1F), std::log(0.4F), std::log(0.05F), std::log(0.3F), std::log(0.15F)};

TEST(Sampler, GreedyTakesTheFirstOfTheLikeliest) {
  Sampler sampler = make({});
  EXPECT_EQ(draw(sampler, {1, 3, 2, 3, 0}), 1);
  EXPECT_EQ(draw(sampler, {-INFINITY, -5, -INFINITY, -4, -9}), 3);
}

TEST(Sampler, SharesFollowTheProbabilities) {
  auto found = shares({.temperature = 1}, kLogits);
  for (int32_t id = 0; id < 5; ++id) EXPECT_NEAR(found[id], std::exp(kLogits[id]), 0.012) << id;
  found = shares({.temperature = 0.5}, kLogits);  // squares, renormalized: 0.16 of 0.285
  EXPECT_NEAR(found[1], 0.16 / 0.285, 0.012);
}

TEST(Sampler, CutsKeepWhatTheyName) {
  auto found = shares({.temperature = 1, .top_k = 2}, kLogits);
  EXPECT_EQ(found.size(), 2u);
  EXPECT_NEAR(found[1], 0.4 / 0.7, 0.012);
  found = shares({.temperature = 1, .top_p = 0.75}, kLogits);  // 0.4 + 0.3 < 0.75 <= + 0.15
  EXPECT_EQ(found.size(), 3u);
  EXPECT_NEAR(found[4], 0.15 / 0.85, 0.012);
  found = shares({.temperature = 1, .min_p = 0.3}, kLogits);  // at least 0.12
  EXPECT_EQ(found.size(), 3u);
  EXPECT_NEAR(found[3], 0.3 / 0.85, 0.012);
  found = shares({.temperature = 1, .top_k = 3, .top_p = 0.5}, kLogits);  // of 0.85: 0.4 < 0.425 <= 0.7
  EXPECT_EQ(found.size(), 2u);
  found = shares({.temperature = 1, .top_p = 1e-9}, kLogits);
  EXPECT_EQ(found.size(), 1u);
}

TEST(Sampler, NeedsNoMoreMemoryThanItSays) {
  std::mt19937 numbers(3);
  std::vector<float> logits(1000);
  for (float& logit : logits) logit = static_cast<float>(numbers() % 7);
  for (const SamplerOptions& options :
       {SamplerOptions{}, SamplerOptions{.temperature = 1}, SamplerOptions{.temperature = 2, .min_p = 1e-9},
        SamplerOptions{.temperature = 1, .top_k = 900, .top_p = 0.9999}}) {
    Sampler sampler = make(options, 1000);
    SamplerScratch scratch;
    for (int i = 0; i < 3; ++i) sampler.sample(logits, scratch).value();
    EXPECT_LE(scratch.order.capacity() * sizeof(int32_t) + scratch.cumulative.capacity() * sizeof(double),
              static_cast<size_t>(SamplerScratch::bytes(1000)));
  }
}

TEST(Sampler, TheSameSeedGivesTheSameTokens) {
  for (const SamplerOptions& options :
       {SamplerOptions{.temperature = 1, .seed = 7}, SamplerOptions{.temperature = 1.5, .top_p = 0.9, .seed = 7}}) {
    Sampler a = make(options), b = make(options);
    SamplerOptions other = options;
    other.seed = 8;
    Sampler c = make(other);
    int differences = 0;
    for (int i = 0; i < 200; ++i) {
      const int32_t token = draw(a, kLogits);
      EXPECT_EQ(token, draw(b, kLogits));
      differences += token != draw(c, kLogits);
    }
    EXPECT_GT(differences, 50);
  }
}

/// What u picks, as the class says it, worked out by hand.
TEST(Sampler, ADrawIsTheUpper53BitsAgainstTheCumulativeSum) {
  const auto expect_picks = [](const SamplerOptions& options, const std::vector<int32_t>& order) {
    std::vector<double> sums;
    double total = 0;
    for (const int32_t id : order) sums.push_back(total += std::exp(kLogits[static_cast<size_t>(id)]));
    Sampler sampler = make(options);
    std::mt19937_64 generator(options.seed);
    for (int i = 0; i < 200; ++i) {
      const double target = static_cast<double>(generator() >> 11) / 9007199254740992.0 * total;
      size_t rank = 0;
      while (rank + 1 < sums.size() && sums[rank] <= target) ++rank;
      ASSERT_EQ(draw(sampler, kLogits), order[rank]) << i;
    }
  };
  expect_picks({.temperature = 1, .seed = 42}, {0, 1, 2, 3, 4});
  expect_picks({.temperature = 1, .top_k = 4, .seed = 42}, {1, 3, 4, 0});
  expect_picks({.temperature = 1, .top_p = 0.75, .seed = 42}, {1, 3, 4});
}

TEST(Sampler, NeverDrawsWhatIsImpossible) {
  for (const SamplerOptions& options : {SamplerOptions{.temperature = 100, .seed = 3},
                                        SamplerOptions{.temperature = 100, .top_p = 0.999999, .seed = 3}}) {
    const auto found = shares(options, {-INFINITY, 0, -INFINITY, 0.5F, -INFINITY}, 300);
    EXPECT_EQ(found.size(), 2u);
    EXPECT_TRUE(found.contains(1) && found.contains(3));
  }
}

TEST(Sampler, RepetitionPenaltyActsOnTokensThatOccurred) {
  Sampler sampler = make({.repetition_penalty = 2});
  EXPECT_EQ(draw(sampler, {1, 3, 2, -1, 0}), 1);
  sampler.observe(1);
  sampler.observe(1);  // once, however often it occurred
  EXPECT_EQ(draw(sampler, {1, 3.9F, 2, -1, 0}), 2);
  EXPECT_EQ(draw(sampler, {1, 4.1F, 2, -1, 0}), 1);
  EXPECT_EQ(draw(sampler, {-3, -1, -1.9F, -4, -4}), 2);  // -1 becomes -2
}

TEST(Sampler, BiasIsAddedAndMinusInfinityForbids) {
  Sampler sampler = make({.logit_bias = {{1, -INFINITY}, {4, 2.5F}}});
  EXPECT_EQ(draw(sampler, {1, 9, 2, 0, 0}), 4);
  EXPECT_EQ(draw(sampler, {1, 9, 3, 0, 0}), 2);
}

TEST(Sampler, ManyEqualLogitsAreDrawnAlike) {
  const auto found = shares({.temperature = 1, .top_p = 0.5}, std::vector<float>(64, 1.0F));
  EXPECT_EQ(found.size(), 32u);
  EXPECT_EQ(found.rbegin()->first, 31);  // of equals the lower ids
}

TEST(Sampler, RefusesWhatIsNoNumber) {
  Sampler sampler = make({.temperature = 1});
  SamplerScratch scratch;
  std::vector<float> logits = {1, NAN, 2, 0, 0};
  EXPECT_THAT(sampler.sample(logits, scratch).status().message(), HasSubstr("NaN"));
  logits.assign(5, -INFINITY);
  EXPECT_THAT(sampler.sample(logits, scratch).status().message(), HasSubstr("not finite"));
  logits.assign(5, INFINITY);
  EXPECT_FALSE(sampler.sample(logits, scratch).ok());
  std::vector<float> none;
  EXPECT_FALSE(sampler.sample(none, scratch).ok());
}

TEST(Sampler, RefusesOptionsOutOfRange) {
  const auto message = [](const SamplerOptions& options) {
    const Status status = Sampler::create(options, 5).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    return status.message();
  };
  EXPECT_THAT(message({.temperature = -1}), HasSubstr("temperature is -1"));
  EXPECT_THAT(message({.temperature = NAN}), HasSubstr("temperature"));
  EXPECT_THAT(message({.top_k = -1}), HasSubstr("top_k"));
  EXPECT_THAT(message({.top_p = 0}), HasSubstr("top_p is 0"));
  EXPECT_THAT(message({.top_p = 1.5}), HasSubstr("top_p"));
  EXPECT_THAT(message({.min_p = -0.1}), HasSubstr("min_p"));
  EXPECT_THAT(message({.repetition_penalty = 0}), HasSubstr("repetition_penalty"));
  EXPECT_THAT(message({.logit_bias = {{5, 1.0F}}}), HasSubstr("token id 5"));
  EXPECT_THAT(message({.logit_bias = {{-1, 1.0F}}}), HasSubstr("token id -1"));
  EXPECT_THAT(message({.logit_bias = {{1, NAN}}}), HasSubstr("logit_bias"));
}

}  // namespace
}  // namespace autoglm::tokenizer
