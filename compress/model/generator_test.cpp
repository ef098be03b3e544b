#include "compress/model/generator.h"

#include <gmock/gmock.h>

#include <fstream>

#include "compress/model/testing.h"

namespace autoglm::model {
namespace {

using testing::HasSubstr;
using Prompts = std::vector<std::vector<int32_t>>;

std::vector<int32_t> row_of(const at::Tensor& ids, int64_t row, int64_t length) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < length; ++i) tokens.push_back(static_cast<int32_t>(ids[row][i].item<int64_t>()));
  return tokens;
}

class GeneratorTest : public SettingTest {};
INSTANTIATE_TEST_SUITE_P(Tiny, GeneratorTest, SettingTest::cases(), SettingTest::name);

TEST_P(GeneratorTest, StepsGiveTheLogitsOfTheFullPass) {
  Generator generator = Generator::create(open()).value();
  const at::Tensor ids = golden(family(), "input_ids"), logits = golden(family(), "logits");
  at::Tensor next = generator.prefill({row_of(ids, 0, 7), row_of(ids, 1, 7)}).value();
  for (int64_t at = 6; at < 23; ++at) {
    compare(next, logits.select(1, at));
    const std::vector<int32_t> tokens = {ids[0][at + 1].item<int32_t>(), ids[1][at + 1].item<int32_t>()};
    next = generator.step(tokens).value();
  }
  compare(next, logits.select(1, 23));
  EXPECT_LT(error(), bound());
}

TEST_P(GeneratorTest, PromptsOfDifferentLengthsDoNotDisturbOneAnother) {
  Generator generator = Generator::create(open()).value();
  const at::Tensor ids = golden(family(), "input_ids"), logits = golden(family(), "logits");
  const std::vector<int64_t> lengths = {11, 4};
  at::Tensor next = generator.prefill({row_of(ids, 0, lengths[0]), row_of(ids, 1, lengths[1])}).value();
  for (int64_t done = 0; done < 10; ++done) {
    std::vector<int32_t> tokens;
    for (int64_t row = 0; row < 2; ++row) {
      const int64_t at = lengths[static_cast<size_t>(row)] - 1 + done;
      compare(next[row], logits[row][at]);
      tokens.push_back(ids[row][at + 1].item<int32_t>());
    }
    next = generator.step(tokens).value();
  }
  // The shorter one goes on alone.
  ASSERT_TRUE(generator.keep(std::vector<int64_t>{1}).ok());
  compare(next[1], logits[1][13]);
  next = generator.step(std::vector<int32_t>{ids[1][14].item<int32_t>()}).value();
  compare(next[0], logits[1][14]);
  EXPECT_LT(error(), bound());
}

TEST(Generator, CacheGrowsBeyondItsFirstCapacity) {
  Generator generator = Generator::create(open_decoder(tiny_folder("glm4"))).value();
  std::vector<int32_t> tokens(600);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 7 % 320);
  const std::vector<int32_t> start(tokens.begin(), tokens.begin() + 3);
  at::Tensor next = generator.prefill({start}).value();
  for (size_t i = 3; i < tokens.size(); ++i) next = generator.step(std::span(&tokens[i], 1)).value();
  const at::Tensor whole = generator.prefill({tokens}).value();
  EXPECT_LT(relative_error(next, whole), 1e-4);
}

TEST(Generator, ScaledRotaryFollowsTheLengthOfTheSequence) {
  const ScratchCopy copy(tiny_folder("llama"));
  const auto config = copy.folder() / "config.json";
  std::string text = format::ModelConfig::load(copy.folder())->raw.dump();
  const std::string plain = R"("rope_type":"default")", dynamic = R"("rope_type":"dynamic","factor":4.0)";
  const std::string trained = R"("max_position_embeddings":512)", shorter = R"("max_position_embeddings":8)";
  ASSERT_NE(text.find(plain), std::string::npos);
  ASSERT_NE(text.find(trained), std::string::npos);
  text.replace(text.find(plain), plain.size(), dynamic);
  text.replace(text.find(trained), trained.size(), shorter);
  std::ofstream(config) << text;

  const Decoder decoder = open_decoder(copy.folder());
  const at::Tensor ids = golden("llama", "input_ids");
  Generator generator = Generator::create(decoder).value();
  const at::Tensor next = generator.prefill({row_of(ids, 0, 24), row_of(ids, 1, 24)}).value();
  EXPECT_LT(relative_error(next, all_logits(decoder, ids).select(1, 23)), 1e-5);
  EXPECT_GT(relative_error(next, golden("llama", "logits").select(1, 23)), 1e-3);
  // Back within the trained length, the frequencies are the plain ones again.
  EXPECT_LT(relative_error(generator.prefill({row_of(ids, 0, 8)}).value()[0], golden("llama", "logits")[0][7]), 1e-5);
}

TEST(Generator, RefusesWhatItCannotDo) {
  const Decoder decoder = open_decoder(tiny_folder("glm"));
  const Status limited = Generator::create(decoder, 100'000).status();
  EXPECT_EQ(limited.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(limited.message(), HasSubstr("the limit is 100 kB"));
  EXPECT_TRUE(Generator::create(decoder, Generator::weight_bytes(decoder)).ok());

  Generator generator = Generator::create(decoder).value();
  EXPECT_EQ(generator.step(std::vector<int32_t>{1}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(generator.prefill({}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(generator.prefill({{1}, {}}).status().message(), HasSubstr("prompt 1 is empty"));
  EXPECT_EQ(generator.prefill({{320}}).status().code(), StatusCode::kInvalidArgument);
  ASSERT_TRUE(generator.prefill({{1, 2}}).ok());
  EXPECT_EQ(generator.step(std::vector<int32_t>{1, 2}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(generator.keep(std::vector<int64_t>{1}).code(), StatusCode::kInvalidArgument);

  CancelToken cancel;
  cancel.cancel();
  EXPECT_EQ(generator.prefill({{1, 2}}, &cancel).status().code(), StatusCode::kCancelled);
  EXPECT_EQ(Generator::create(decoder, 0, &cancel).status().code(), StatusCode::kCancelled);
}

}  // namespace
}  // namespace autoglm::model
