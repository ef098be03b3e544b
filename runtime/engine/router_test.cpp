#include "runtime/engine/router.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace autoglm::engine {
namespace {

float logit(float score) { return std::log(score / (1 - score)); }

TEST(Router, ChoosesByCorrectedScoreAndWeighsByTheScore) {
  format::ModelConfig config;
  config.num_experts_per_tok = 2;
  config.routed_scaling_factor = 2;
  std::vector<float> logits = {logit(0.5F), logit(0.2F), logit(0.4F), logit(0.1F)};
  const std::vector<float> correction = {0, 0, 0, 0.9F};
  std::vector<Choice> chosen(2);
  route(config, logits, correction, chosen);
  EXPECT_EQ(chosen[0].expert, 3);
  EXPECT_EQ(chosen[1].expert, 0);
  EXPECT_NEAR(chosen[0].weight, 2 * 0.1 / 0.6, 1e-6);
  EXPECT_NEAR(chosen[1].weight, 2 * 0.5 / 0.6, 1e-6);
  config.norm_topk_prob = false;
  logits = {logit(0.5F), logit(0.2F), logit(0.4F), logit(0.1F)};
  route(config, logits, {}, chosen);
  EXPECT_EQ(chosen[1].expert, 2);
  EXPECT_NEAR(chosen[1].weight, 0.8, 1e-6);
}

TEST(Router, OnlyTheBestGroupsTakePart) {
  format::ModelConfig config;
  config.num_experts_per_tok = 2;
  config.n_group = 2;
  config.topk_group = 1;
  // The first group has the single best, the second the better pair.
  std::vector<float> logits = {logit(0.9F), logit(0.1F), logit(0.6F), logit(0.7F)};
  std::vector<Choice> chosen(2);
  route(config, logits, {}, chosen);
  EXPECT_EQ(chosen[0].expert, 3);
  EXPECT_EQ(chosen[1].expert, 2);
}

TEST(Router, NumbersThatAreNoneAreSafe) {
  format::ModelConfig config;
  config.num_experts_per_tok = 2;
  std::vector<float> logits(4, NAN);
  std::vector<Choice> chosen(2);
  route(config, logits, {}, chosen);
  EXPECT_EQ(chosen[0].expert, 0);
  EXPECT_EQ(chosen[1].expert, 1);
}

}  // namespace
}  // namespace autoglm::engine
