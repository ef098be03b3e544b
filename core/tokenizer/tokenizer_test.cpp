#include "core/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

namespace autoglm::tokenizer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::filesystem::path kDemo = std::filesystem::path(AUTOGLM_SOURCE_DIR) / "models/glm-phone-demo";

std::unique_ptr<Tokenizer> demo() {
  auto tokenizer = Tokenizer::load(kDemo);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return std::move(tokenizer).value();
}

TEST(Tokenizer, ReadsTheDemoModel) {
  const auto tokenizer = demo();
  EXPECT_EQ(tokenizer->kind(), "byte-level bpe");
  EXPECT_EQ(tokenizer->vocab_size(), 4096);
  EXPECT_EQ(tokenizer->token_to_id("<|user|>"), 4093);
  EXPECT_EQ(tokenizer->id_to_token(4093), "<|user|>");
  EXPECT_TRUE(tokenizer->is_special(4093));
  EXPECT_FALSE(tokenizer->is_special(5));
  EXPECT_EQ(tokenizer->token_to_id("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer->id_to_token(-1), "");
  EXPECT_EQ(tokenizer->id_to_token(1 << 30), "");
}

TEST(Tokenizer, SpecialTokensInTextAreOneTokenOnRequest) {
  const auto tokenizer = demo();
  EXPECT_THAT(tokenizer->encode("<|user|>"), ElementsAre(4093));
  const std::vector<int32_t> plain = tokenizer->encode("<|user|>", {.parse_special = false});
  EXPECT_GT(plain.size(), 1U);
  EXPECT_EQ(tokenizer->decode(plain), "<|user|>");
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{4093}, /*skip_special_tokens=*/true), "");
}

TEST(Tokenizer, UnknownIdsDecodeToNothing) {
  EXPECT_EQ(demo()->decode(std::vector<int32_t>{-5, 4096, INT32_MAX, INT32_MIN}), "");
}

TEST(Tokenizer, MayBeSharedBetweenThreads) {
  const auto tokenizer = demo();
  const std::string text = "Open the 设置 app and tap the third item.\n";
  const std::vector<int32_t> expected = tokenizer->encode(text);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) wrong += tokenizer->encode(text) != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(StreamDecoder, NeverEmitsHalfACharacter) {
  const auto tokenizer = demo();
  const std::string text = "tap 👨‍👩‍👧 然后 🩷 ok é";
  const std::vector<int32_t> ids = tokenizer->encode(text);
  StreamDecoder stream(*tokenizer);
  std::string all;
  for (const int32_t id : ids) {
    const std::string part = stream.push(id);
    EXPECT_TRUE(part.empty() || (static_cast<unsigned char>(part[0]) & 0xC0) != 0x80);
    EXPECT_THAT(part, testing::Not(HasSubstr("\xEF\xBF\xBD")));
    all += part;
  }
  all += stream.finish();
  EXPECT_EQ(all, text);
}

TEST(StreamDecoder, AnIncompleteCharacterEndsAsReplacement) {
  const auto tokenizer = demo();
  std::vector<int32_t> ids = tokenizer->encode("\xF0\x9F\xAA\xBF");  // rare: spelled in bytes
  ASSERT_GT(ids.size(), 1U);
  ids.pop_back();
  StreamDecoder stream(*tokenizer);
  for (const int32_t id : ids) EXPECT_EQ(stream.push(id), "");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
}

}  // namespace
}  // namespace autoglm::tokenizer
