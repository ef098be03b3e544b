#include "core/eval/contract.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace autoglm::eval {
namespace {

using testing::HasSubstr;

TaskScores scores(int64_t count, int64_t source, int64_t compressed) {
  TaskScores s;
  s.count = count;
  s.source_correct = source;
  s.correct = compressed;
  return s;
}

Divergence agreement(double share) {
  Divergence d;
  d.positions = 100;
  d.top1_agreement = share;
  return d;
}

TEST(Contract, UsesTaskAccuracyWhereThereAreTasks) {
  const auto contract = check_contract(0.03, scores(200, 100, 97), agreement(0.5));
  ASSERT_TRUE(contract.ok());
  EXPECT_EQ(contract->measure, "task accuracy");
  EXPECT_NEAR(contract->loss, 0.03, 1e-12);
  EXPECT_TRUE(contract->holds);
  EXPECT_TRUE(contract->status().ok());
}

TEST(Contract, IsCertainWhereThePairedComparisonSaysSo) {
  TaskScores tasks = scores(1000, 900, 891);  // 1 % lost
  tasks.lost = 9;
  tasks.gained = 0;
  const auto few = check_contract(0.01, tasks, std::nullopt);
  EXPECT_NEAR(few->upper, 0.01 + 1.645 * 3 / 900, 1e-9);
  EXPECT_TRUE(few->holds && few->is_certain());
  tasks.lost = 58;
  tasks.gained = 49;  // as much lost, but by much noise
  const auto noisy = check_contract(0.01, tasks, std::nullopt);
  EXPECT_TRUE(noisy->holds);
  EXPECT_FALSE(noisy->is_certain());
  TaskScores tiny = scores(20, 20, 20);
  tiny.lost = tiny.gained = 0;
  EXPECT_FALSE(check_contract(0.01, tiny, std::nullopt)->is_certain());  // twenty tasks prove no per cent
}

TEST(Contract, CountsNatsWhereTheDivergenceIsBounded) {
  Divergence d;
  d.positions = 4000;
  d.kl_mean = 0.021;
  const auto broken = check_divergence(0.02, d);
  ASSERT_TRUE(broken.ok());
  EXPECT_FALSE(broken->holds || broken->is_certain());
  EXPECT_THAT(broken->status().message(), HasSubstr("the loss is 0.0210 by KL divergence, 0.0200 was allowed"));
  EXPECT_TRUE(check_divergence(0.03, d)->is_certain());
  EXPECT_EQ(check_divergence(0.03, std::nullopt).status().code(), StatusCode::kInvalidArgument);
}

TEST(Contract, BreaksWithOneClearLine) {
  const auto contract = check_contract(0.03, scores(200, 100, 96), std::nullopt);
  EXPECT_FALSE(contract->holds);
  EXPECT_EQ(contract->status().code(), StatusCode::kContractBroken);
  EXPECT_THAT(contract->status().message(), HasSubstr("the loss is 4.00 % by task accuracy, 3.00 % was allowed"));
}

TEST(Contract, FallsBackToAgreement) {
  EXPECT_EQ(check_contract(0.03, std::nullopt, agreement(0.96))->measure, "top-1 agreement");
  EXPECT_FALSE(check_contract(0.03, std::nullopt, agreement(0.96))->holds);
  EXPECT_TRUE(check_contract(0.03, std::nullopt, agreement(0.971))->holds);
  EXPECT_EQ(check_contract(0.03, scores(50, 0, 0), agreement(1))->measure,
            "top-1 agreement");  // the source can do none
  EXPECT_LT(check_contract(0.0, scores(50, 10, 12), std::nullopt)->loss, 0);
  EXPECT_EQ(check_contract(0.03, std::nullopt, std::nullopt).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace autoglm::eval
