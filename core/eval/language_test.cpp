#include "core/eval/language.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

namespace autoglm::eval {
namespace {

TEST(Language, BySharesOfScripts) {
  EXPECT_EQ(language_of("The quick brown fox jumps over the lazy dog."), "latin");
  EXPECT_EQ(language_of("Où sont les neiges d'antan ? Größe, señor."), "latin");
  EXPECT_EQ(language_of("敏捷的棕色狐狸跳过了懒狗。"), "zh");
  EXPECT_EQ(language_of("请打开 Settings 应用,然后点击 Wi-Fi 按钮。"), "zh");
  EXPECT_EQ(language_of("Open the Chinese restaurant page (中文) and read it to me."), "latin");
  EXPECT_EQ(language_of("すばしっこい茶色の狐はのろまな犬を飛び越える。"), "ja");
  EXPECT_EQ(language_of("다람쥐 헌 쳇바퀴에 타고파"), "ko");
  EXPECT_EQ(language_of("Съешь же ещё этих мягких французских булок"), "cyrillic");
  EXPECT_EQ(language_of("नमस्ते दुनिया"), "other");
  EXPECT_EQ(language_of(""), "other");
  EXPECT_EQ(language_of("12345 67890 — …"), "other");
  EXPECT_EQ(language_of("\xff\xfe word \xc3"), "latin");
}

TEST(Language, CodeByItsShape) {
  std::ifstream file(std::string(AUTOGLM_SOURCE_DIR) + "/core/eval/language.cpp");
  const std::string source((std::istreambuf_iterator<char>(file)), {});
  ASSERT_GT(source.size(), 1000u);
  EXPECT_EQ(language_of(source), "code");
  EXPECT_EQ(
      language_of("def f(a, b):\n    if a > b:\n        return f(b, a)\n    return [x * 2 for x in range(a, b)]\n"),
      "code");
  EXPECT_EQ(language_of("A list of things (some of them odd):\n- one\n- two;\n- three.\nAnd that was it, she said.\n"),
            "latin");
  EXPECT_EQ(language_of("[gMASK]<sop><|system|>\nYou operate a phone. Reply with one action.<|user|>\nApp: Files\n- "
                        "Share\n- Delete\nTask: tap Archive<|assistant|>\nArchive is here"),
            "latin");
}

}  // namespace
}  // namespace autoglm::eval
