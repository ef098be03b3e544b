#include "compress/model/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <vector>

namespace autoglm::model {
namespace {

const std::vector<float> kLogits = {1.0F, 3.0F, 2.0F, 3.0F, -1.0F};

std::vector<int32_t> draw(const SamplerOptions& options, int count, const std::vector<float>& logits = kLogits) {
  Sampler sampler = Sampler::create(options).value();
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(sampler.sample(logits).value());
  return tokens;
}

TEST(Sampler, GreedyTakesTheFirstOfTheLikeliest) {
  EXPECT_EQ(draw({}, 3), (std::vector<int32_t>{1, 1, 1}));
  EXPECT_EQ(draw({.temperature = 5, .top_k = 1, .seed = 9}, 3), (std::vector<int32_t>{1, 1, 1}));
  EXPECT_EQ(draw({.temperature = 5, .top_p = 1e-9, .seed = 9}, 3), (std::vector<int32_t>{1, 1, 1}));
}

TEST(Sampler, TheSameSeedGivesTheSameTokensOnEveryPlatform) {
  EXPECT_EQ(draw({.temperature = 1, .seed = 42}, 12), draw({.temperature = 1, .seed = 42}, 12));
  EXPECT_NE(draw({.temperature = 1, .seed = 42}, 64), draw({.temperature = 1, .seed = 43}, 64));
  std::mt19937_64 generator(42);
  // Falling order of the tokens: 1, 3, 2, 0, 4.
  std::vector<double> share;
  double total = 0;
  for (const int id : {1, 3, 2, 0, 4}) share.push_back(total += std::exp(kLogits[static_cast<size_t>(id)] - 3.0));
  for (const int32_t token : draw({.temperature = 1, .seed = 42}, 200)) {
    const double u = static_cast<double>(generator() >> 11) / 9007199254740992.0 * total;
    size_t rank = 0;
    while (share[rank] <= u) ++rank;
    EXPECT_EQ(token, (std::vector<int32_t>{1, 3, 2, 0, 4})[rank]);
  }
}

TEST(Sampler, FrequenciesFollowTheSoftmax) {
  constexpr int kDraws = 40'000;
  std::map<int32_t, int> counts;
  for (const int32_t token : draw({.temperature = 2, .seed = 7}, kDraws)) ++counts[token];
  double total = 0;
  for (const float logit : kLogits) total += std::exp(logit / 2.0);
  for (size_t i = 0; i < kLogits.size(); ++i) {
    const double p = std::exp(kLogits[i] / 2.0) / total;
    EXPECT_NEAR(static_cast<double>(counts[static_cast<int32_t>(i)]) / kDraws, p, 5 * std::sqrt(p * (1 - p) / kDraws))
        << i;
  }
}

TEST(Sampler, TopKAndTopPKeepTheLikeliest) {
  for (const int32_t token : draw({.temperature = 10, .top_k = 3, .seed = 1}, 500))
    EXPECT_TRUE(token >= 1 && token <= 3);
  // Softmax of kLogits: tokens 1 and 3 hold 0.39 each, token 2 0.14: 0.8 needs all three, 0.7 only two.
  std::map<int32_t, int> two, three;
  for (const int32_t token : draw({.temperature = 1, .top_p = 0.7, .seed = 1}, 500)) ++two[token];
  for (const int32_t token : draw({.temperature = 1, .top_p = 0.8, .seed = 1}, 500)) ++three[token];
  EXPECT_EQ(two.size(), 2u);
  EXPECT_EQ(three.size(), 3u);
}

TEST(Sampler, NeverDrawsWhatIsImpossible) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  for (const int32_t token : draw({.temperature = 100, .seed = 3}, 300, {kNever, 0.0F, kNever, 0.5F, kNever})) {
    EXPECT_TRUE(token == 1 || token == 3);
  }
}

TEST(Sampler, RefusesBadOptionsAndLogits) {
  for (const SamplerOptions& bad : std::vector<SamplerOptions>{{.temperature = -1},
                                                               {.temperature = std::nan("")},
                                                               {.top_k = -1},
                                                               {.top_p = 0},
                                                               {.top_p = 1.5},
                                                               {.top_p = std::nan("")}}) {
    EXPECT_EQ(Sampler::create(bad).status().code(), StatusCode::kInvalidArgument);
  }
  Sampler sampler = Sampler::create({}).value();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const std::vector<float>& bad :
       std::vector<std::vector<float>>{{1, std::nanf("")}, {-infinity}, {infinity, 0}, {}}) {
    EXPECT_EQ(sampler.sample(bad).status().code(), StatusCode::kBadInput);
  }
}

}  // namespace
}  // namespace autoglm::model
