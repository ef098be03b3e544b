#include "compress/calibrate/self_sample.h"

#include <gtest/gtest.h>

#include "core/eval/dataset.h"

namespace autoglm::calibrate {
namespace {

SelfSampleOptions shortened(double step_seconds, double seconds, eval::Tokens start = {}) {
  SelfSampleOptions options{.count = 128, .length = 129, .batch = 16, .start = std::move(start)};
  shorten(options, step_seconds, seconds);
  return options;
}

TEST(SelfSample, AsksForAsMuchAsThereIsTimeFor) {
  // A step of a batch writes 16 tokens: all of it takes 8 x 128 steps.
  EXPECT_EQ(shortened(0.01, 10.24).count, 128);
  EXPECT_EQ(shortened(0.01, 10.23).count, 64);
  const SelfSampleOptions one_batch = shortened(0.01, 1.28);
  EXPECT_EQ(one_batch.count, 16);
  EXPECT_EQ(one_batch.length, 129);
  const SelfSampleOptions half = shortened(0.01, 0.64);  // 63 steps
  EXPECT_EQ(half.count, 16);
  EXPECT_EQ(half.length, 64);
}

TEST(SelfSample, AsksForSomethingHoweverLittleTimeThereIs) {
  const SelfSampleOptions least = shortened(1, -5);
  EXPECT_EQ(least.count, 16);
  EXPECT_EQ(least.length, eval::kShortestSequence);
  const SelfSampleOptions after_a_long_start = shortened(1, -5, eval::Tokens(30, 7));
  EXPECT_EQ(after_a_long_start.length, 32);  // one token more than the start and the first one
  SelfSampleOptions few{.count = 3, .length = 20, .batch = 16};
  shorten(few, 1, 0);
  EXPECT_EQ(few.count, 3);
}

}  // namespace
}  // namespace autoglm::calibrate
