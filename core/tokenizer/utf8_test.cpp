#include "core/tokenizer/utf8.h"

#include <gtest/gtest.h>

#include "core/tokenizer/byte_level.h"

namespace autoglm::tokenizer {
namespace {

TEST(Utf8, KeepsEveryValidCharacter) {
  for (char32_t c = 0; c < 0x110000; c += c < 0x300 ? 1 : 37) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    const Utf8Step step = utf8_step(text, 0);
    ASSERT_EQ(step.kind, Utf8Kind::kValid) << static_cast<uint32_t>(c);
    ASSERT_EQ(step.value, c);
    ASSERT_EQ(step.size, text.size());
    ASSERT_TRUE(is_valid_utf8(text));
    ASSERT_EQ(truncated_utf8_tail(text), 0U);
    for (size_t size = 1; size < text.size(); ++size) ASSERT_EQ(truncated_utf8_tail(text.substr(0, size)), size);
  }
}

// Expected by Python 3: bytes.decode("utf-8", errors="replace").
TEST(Utf8, ReplacesAsPythonDoes) {
  const std::string r(kReplacementCharacter);
  EXPECT_EQ(replace_invalid_utf8("a\xff\xfe!"), "a" + r + r + "!");
  EXPECT_EQ(replace_invalid_utf8("\xe4\xb8"), r);
  EXPECT_EQ(replace_invalid_utf8("\xe4\xb8x"), r + "x");
  EXPECT_EQ(replace_invalid_utf8("\xf0\x9f\x98\xf0\x9f\x98\x80"), r + "\xf0\x9f\x98\x80");
  EXPECT_EQ(replace_invalid_utf8("\xed\xa0\x80"), r + r + r);
  EXPECT_EQ(replace_invalid_utf8("\xc0\xaf"), r + r);
  EXPECT_EQ(replace_invalid_utf8("\xe0\x80\x80"), r + r + r);
  EXPECT_EQ(replace_invalid_utf8("\xf4\x90\x80\x80"), r + r + r + r);
  EXPECT_EQ(replace_invalid_utf8("\xf5\x80"), r + r);
  EXPECT_EQ(replace_invalid_utf8(std::string("\0\xc3", 2)), std::string(1, '\0') + r);
}

TEST(Utf8, TailIsOnlyWhatMayStillBecomeACharacter) {
  EXPECT_EQ(truncated_utf8_tail(""), 0U);
  EXPECT_EQ(truncated_utf8_tail("a\xf0\x9f"), 2U);
  EXPECT_EQ(truncated_utf8_tail("\xed\xa0"), 0U);
  EXPECT_EQ(truncated_utf8_tail("\x80\x80\x80\x80"), 0U);
}

TEST(ByteLevel, SpellsEveryByteAndBack) {
  std::string bytes;
  for (int b = 0; b < 256; ++b) bytes += static_cast<char>(b);
  const std::string spelled = to_byte_level(bytes);
  EXPECT_TRUE(is_valid_utf8(spelled));
  EXPECT_EQ(from_byte_level(spelled), bytes);
  EXPECT_EQ(to_byte_level(" \n!"), "ĠĊ!");
  EXPECT_EQ(from_byte_level("a b"), std::nullopt);
  EXPECT_EQ(from_byte_level("中"), std::nullopt);
}

}  // namespace
}  // namespace autoglm::tokenizer
