#include "compress/pass/shift.h"

#include <gtest/gtest.h>

#include "compress/quant/pipeline_testing.h"

namespace autoglm::quant {
namespace {

using testing::random_tokens;

TEST(Shift, GrowsWithTheDistanceOfTheText) {
  for (const std::string family : {"glm4", "chatglm", "glm4_moe"}) {
    const model::Decoder source = model::Decoder::open(testing::kTiny / family).value();
    const int64_t vocabulary = source.config().vocab_size;
    const pass::TextSet evaluation{"evaluation", random_tokens(8, 32, vocabulary, 1)};
    std::vector<eval::Tokens> narrow = random_tokens(8, 32, 3, 2);  // three words over and over
    const std::vector<pass::TextSet> sets = {
        {"same", evaluation.sequences}, {"alike", random_tokens(8, 32, vocabulary, 3)}, {"narrow", narrow}};
    CancelToken cancel;
    pass::ShiftOptions options;
    options.scratch = std::filesystem::temp_directory_path();
    const auto shifts = pass::measure_shift(source, testing::registry(), sets, evaluation, options, cancel);
    ASSERT_TRUE(shifts.ok()) << shifts.status().message();
    ASSERT_EQ(shifts->size(), 3U);
    double alike = 0, narrow_distance = 0, alike_excess = 0, narrow_excess = 0;
    for (size_t i = 0; i < (*shifts)[0].inputs.size(); ++i) {
      const pass::InputShift &same = (*shifts)[0].inputs[i], &near = (*shifts)[1].inputs[i],
                             &far = (*shifts)[2].inputs[i];
      EXPECT_EQ(same.distance, 0);
      EXPECT_EQ(same.channel_distance, 0);
      EXPECT_EQ(same.range_ratio, 1);
      EXPECT_DOUBLE_EQ(same.error, same.own_error);
      EXPECT_GT(same.own_error, 0) << same.input;
      alike += near.channel_distance, narrow_distance += far.channel_distance;
      alike_excess += near.excess(), narrow_excess += far.excess();
    }
    EXPECT_EQ((*shifts)[0].inputs.size(), static_cast<size_t>(4 * source.config().num_hidden_layers))
        << "qkv, o, gate and up, down of each layer, the shared experts' too";
    EXPECT_GT(narrow_distance, 1.5 * alike) << family;
    EXPECT_GT(narrow_excess, alike_excess) << family;
  }
}

TEST(Shift, RefusesWhatItCannotDo) {
  const model::Decoder source = model::Decoder::open(testing::kTiny / "glm4").value();
  CancelToken cancel;
  const pass::TextSet text{"text", random_tokens(2, 16, 100, 1)};
  pass::ShiftOptions options;
  options.scratch = std::filesystem::temp_directory_path();
  EXPECT_EQ(pass::measure_shift(source, testing::registry(), {{"empty", {}}}, text, options, cancel).status().code(),
            StatusCode::kInvalidArgument);
  options.method = "rtn";
  EXPECT_EQ(pass::measure_shift(source, testing::registry(), {text}, text, options, cancel).status().code(),
            StatusCode::kInvalidArgument);
  options.method = "gptq";
  cancel.cancel();
  EXPECT_EQ(pass::measure_shift(source, testing::registry(), {text}, text, options, cancel).status().code(),
            StatusCode::kCancelled);
}

}  // namespace
}  // namespace autoglm::quant
