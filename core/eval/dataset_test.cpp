#include "core/eval/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "core/base/log.h"
#include "core/eval/fake_tokenizer.h"
#include "core/eval/test_folder.h"

namespace autoglm::eval {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

tokenizer::ChatTemplate demo_template() {
  auto chat = tokenizer::ChatTemplate::load(std::string(AUTOGLM_SOURCE_DIR) + "/models/glm-phone-demo");
  if (!chat.ok()) ADD_FAILURE() << chat.status().message();
  return std::move(chat).value();
}

std::string failure(const std::filesystem::path& path) {
  const Status status = read_documents(path, nullptr).status();
  EXPECT_EQ(status.code(), StatusCode::kBadInput);
  EXPECT_EQ(status.message().find('\n'), std::string::npos);
  return status.message();
}

TEST(ReadDocuments, TakesATextFileWhole) {
  const TestFolder folder;
  const auto file = folder.write("a.txt", "\xEF\xBB\xBFone\n\ntwo \xff\n\nthree");
  EXPECT_THAT(*read_documents(file, nullptr), ElementsAre("one\n\ntwo \xEF\xBF\xBD\n\nthree\n"));
}

TEST(ReadDocuments, TakesJsonLinesOneByOne) {
  const TestFolder folder;
  const auto file = folder.write("a.jsonl",
                                 "\xEF\xBB\xBF{\"text\": \"one\"}\r\n\n  \n{\"text\": \"tw\xff\\n\", \"id\": 2}\n"
                                 "{\"text\": \" \"}\n{\"text\": \"last\"}");
  EXPECT_THAT(*read_documents(file, nullptr), ElementsAre("one\n", "tw\xEF\xBF\xBD\n", "last\n"));
}

TEST(ReadDocuments, TakesAFolderInTheOrderOfNames) {
  const TestFolder folder;
  folder.write("b.txt", "second");
  folder.write("a.jsonl", "{\"text\": \"first\"}");
  folder.write("c.csv", "ignored");
  folder.write("d/e.txt", "ignored too");
  EXPECT_THAT(*read_documents(folder.path(), nullptr), ElementsAre("first\n", "second\n"));
  EXPECT_THAT(*text_files(folder.path()), ElementsAre(folder.path() / "a.jsonl", folder.path() / "b.txt"));
  EXPECT_THAT(*text_files(folder.path() / "b.txt"), ElementsAre(folder.path() / "b.txt"));
  const auto empty = folder.write("empty.txt", "");
  EXPECT_THAT(*read_files({empty}, nullptr), ElementsAre());
}

TEST(ReadDocuments, RendersConversationsAndTasks) {
  const TestFolder folder;
  const auto chat = demo_template();
  const auto file = folder.write(
      "a.jsonl", R"({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]})"
                 "\n"
                 R"({"system": "S", "user": "U", "think": "T", "answer": "do A"})"
                 "\n"
                 R"({"prompt": "P:", "answer": "A"})"
                 "\n");
  EXPECT_THAT(*read_documents(file, &chat),
              ElementsAre("[gMASK]<sop><|user|>\nhi<|assistant|>\nhello",
                          "[gMASK]<sop><|system|>\nS<|user|>\nU<|assistant|>\n<think>T</think>\ndo A<|user|>", "P:A"));
}

TEST(ReadDocuments, EndsATurnAsTheTemplateDoes) {
  const TestFolder folder;
  const auto chatml = tokenizer::ChatTemplate::parse(
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
      "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}");
  ASSERT_TRUE(chatml.ok()) << chatml.status().message();
  const auto file = folder.write("a.jsonl", R"({"user": "U", "answer": "A"})");
  EXPECT_THAT(*read_documents(file, &*chatml),
              ElementsAre("<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>"));
}

TEST(ReadDocuments, ReadsTheDemoModelsCalibrationTasks) {
  const auto chat = demo_template();
  const auto documents =
      read_documents(std::string(AUTOGLM_SOURCE_DIR) + "/models/glm-phone-demo/tasks/calibration.jsonl", &chat);
  ASSERT_TRUE(documents.ok()) << documents.status().message();
  EXPECT_EQ(documents->size(), 512u);
  for (const std::string& document : *documents) {
    EXPECT_THAT(document, testing::StartsWith("[gMASK]<sop><|system|>\n"));
    EXPECT_THAT(document, testing::EndsWith(")<|user|>"));
  }
}

TEST(ReadDocuments, SaysWhatIsWrongAndWhere) {
  const TestFolder folder;
  EXPECT_THAT(failure(folder.path() / "none.txt"), HasSubstr("none.txt: no such file"));
  EXPECT_THAT(failure(folder.path()), HasSubstr("holds no .txt or .jsonl"));
  EXPECT_THAT(failure(folder.write("a.csv", "x")), HasSubstr("not from '.csv'"));
  EXPECT_THAT(failure(folder.write("empty.txt", "")), HasSubstr("there is no text in it"));
  EXPECT_THAT(failure(folder.write("blank.txt", " \n\t\n")), HasSubstr("there is no text in it"));
  EXPECT_THAT(failure(folder.write("empty.jsonl", "")), HasSubstr("there is no text in it"));
  EXPECT_THAT(failure(folder.write("broken.jsonl", "{\"text\": \"a\"}\n\n{\"text\": \n")),
              HasSubstr("broken.jsonl:3: not valid JSON"));
  EXPECT_THAT(failure(folder.write("list.jsonl", "[1]")),
              HasSubstr("list.jsonl:1: a JSON object is expected, not array"));
  EXPECT_THAT(failure(folder.write("number.jsonl", "{\"text\": 7}")),
              HasSubstr("`text` should be a string, not number"));
  EXPECT_THAT(failure(folder.write("other.jsonl", "{\"content\": \"x\"}")), HasSubstr("no member `text`"));
  EXPECT_THAT(failure(folder.write("chat.jsonl", R"({"messages": [{"role": "user", "content": "x"}]})")),
              HasSubstr("chat template"));
  EXPECT_THAT(failure(folder.write("deep.jsonl", std::string(100'000, '['))), HasSubstr("deep.jsonl:1: nested"));
  EXPECT_THAT(failure(folder.write("long.jsonl", std::string((16 << 20) + 2, 'x'))), HasSubstr("the line is longer"));
  EXPECT_THAT(failure("/dev/null"), HasSubstr("text is read from"));
}

TEST(ReadDocuments, SaysWhichMessageIsWrong) {
  const TestFolder folder;
  const auto chat = demo_template();
  for (const char* line :
       {R"({"messages": "x"})", R"({"messages": []})", R"({"messages": [1]})", R"({"messages": [{"content": "x"}]})",
        R"({"user": 1, "answer": "x"})", R"({"user": "x", "answer": "a\nb"})", R"({"prompt": "", "answer": "x"})"}) {
    const auto status = read_documents(folder.write("a.jsonl", line), &chat).status();
    EXPECT_EQ(status.code(), StatusCode::kBadInput) << line;
    EXPECT_THAT(status.message(), HasSubstr("a.jsonl:1: ")) << line;
  }
}

TEST(ReadDocuments, SamplesLargeFilesEvenly) {
  setup_logging(Verbosity::kQuiet);
  const TestFolder folder;
  constexpr int64_t kLimit = 1 << 20;
  std::string text, lines;
  for (int i = 0; i < 70'000; ++i) {
    text += "line " + std::to_string(i) + std::string(20, '.') + "\n";
    lines += R"({"text": "line )" + std::to_string(i) + std::string(10, '.') + "\"}\n";
  }
  const auto sampled = read_documents(folder.write("large.txt", text), nullptr, kLimit);
  ASSERT_TRUE(sampled.ok());
  EXPECT_LE(sampled->at(0).size(), static_cast<size_t>(kLimit));
  EXPECT_GT(sampled->at(0).size(), static_cast<size_t>(kLimit) * 9 / 10);
  EXPECT_THAT(sampled->at(0), HasSubstr("\nline 69"));  // from near the end too
  for (size_t at = 0; at < sampled->at(0).size(); at = sampled->at(0).find('\n', at) + 1) {
    ASSERT_EQ(sampled->at(0).compare(at, 5, "line "), 0) << "half a line at " << at;
  }
  const auto some = read_documents(folder.write("large.jsonl", lines), nullptr, kLimit);
  ASSERT_TRUE(some.ok());
  EXPECT_EQ(some->size(), 70'000u / 3 + 1);  // 2.2 MB: one of three
  EXPECT_THAT(warnings(), testing::Contains(HasSubstr("one of 3 lines is used")));
}

TEST(DrawSequences, CutsWindowsWithoutOverlapAndDrawsThemBySeed) {
  const ByteTokenizer tokenizer;
  std::vector<std::string> documents;
  for (char c = 'a'; c <= 'z'; ++c) documents.push_back(std::string(8, c));  // windows of 8 hold one letter each
  SequenceOptions options{.count = 10, .length = 8, .seed = 3};
  const auto ten = draw_sequences(documents, tokenizer, options);
  ASSERT_TRUE(ten.ok());
  ASSERT_EQ(ten->size(), 10u);
  std::set<int32_t> letters;
  for (const Tokens& tokens : *ten) {
    EXPECT_EQ(tokens, Tokens(8, tokens[0]));
    letters.insert(tokens[0]);
  }
  EXPECT_EQ(letters.size(), 10u);

  options.count = 4;
  const auto four = draw_sequences(documents, tokenizer, options);
  EXPECT_TRUE(std::equal(four->begin(), four->end(), ten->begin()));
  options.seed = 4;
  EXPECT_NE(*draw_sequences(documents, tokenizer, options), *four);
  options.count = 1000;
  EXPECT_EQ(draw_sequences(documents, tokenizer, options)->size(), 26u);
}

TEST(DrawSequences, IsFrozen) {  // a changed drawing would make every stored figure incomparable
  const ByteTokenizer tokenizer;
  const SequenceOptions options{.count = 3, .length = 2, .seed = 1};
  const auto drawn = draw_sequences({"aabbccddeeffgghh"}, tokenizer, options);
  std::string letters;
  for (const Tokens& tokens : *drawn) letters += static_cast<char>(tokens[0]);
  EXPECT_EQ(letters, "bac");
}

TEST(DrawSequences, SaysHowMuchTextIsMissing) {
  const ByteTokenizer tokenizer;
  SequenceOptions options{.count = 4, .length = 512, .seed = 0};
  const auto status = draw_sequences({std::string(312, 'x')}, tokenizer, options).status();
  EXPECT_EQ(status.code(), StatusCode::kBadInput);
  EXPECT_EQ(status.message(),
            "the text has 312 tokens, 512 are needed; give more text or a smaller --calibration-length");
  options.allow_short = true;
  EXPECT_EQ(draw_sequences({std::string(312, 'x')}, tokenizer, options)->at(0).size(), 312u);
  EXPECT_EQ(draw_sequences({std::string(15, 'x')}, tokenizer, options).status().message(),
            "the text has 15 tokens, 16 are needed; give more text");
  EXPECT_FALSE(draw_sequences({}, tokenizer, options).ok());
  for (const int64_t length : {int64_t{0}, int64_t{1}, int64_t{-5}, int64_t{1} << 40}) {
    options.length = length;
    EXPECT_EQ(draw_sequences({"text"}, tokenizer, options).status().code(), StatusCode::kInvalidArgument);
  }
}

TEST(DrawSequences, TokenizesOnlyAsMuchAsIsNeeded) {
  const ByteTokenizer tokenizer;
  std::string large;
  while (large.size() < (32u << 20)) large += "A line of text that is repeated very often.\n";
  const SequenceOptions options{.count = 4, .length = 64, .seed = 9};
  const auto once = draw_sequences({large}, tokenizer, options);
  EXPECT_LT(tokenizer.bytes_encoded, 5 << 20);
  EXPECT_EQ(*draw_sequences({large}, tokenizer, options), *once);
}

TEST(HoldOut, SplitsWithoutOverlap) {
  std::vector<std::string> documents;
  for (int i = 0; i < 200; ++i) documents.push_back("document " + std::to_string(i) + "\n");
  std::string large = "long document\n";
  for (int i = 0; i < 20'000; ++i) large += "line " + std::to_string(i) + "\n";
  documents.push_back(large);
  const HeldOut split = hold_out(documents, 0.1, 5);
  EXPECT_NEAR(static_cast<double>(split.evaluation.size()), 20, 2);
  std::multiset<std::string> all(split.calibration.begin(), split.calibration.end());
  size_t bytes = 0, total = 0;
  for (const auto& piece : split.calibration) bytes += piece.size();
  for (const auto& piece : split.evaluation) {
    bytes += piece.size();
    EXPECT_EQ(all.count(piece), 0u);
  }
  for (const auto& document : documents) total += document.size();
  EXPECT_EQ(bytes, total);
  EXPECT_TRUE(hold_out({"short\n"}, 0.1, 0).evaluation.empty());
  EXPECT_EQ(hold_out({"one\n", "two\n"}, 0.0, 0).evaluation.size(), 1u);
  EXPECT_EQ(hold_out({"one\n", "two\n"}, 1.0, 0).calibration.size(), 1u);
}

TEST(HoldOut, CutsShortTextSmaller) {
  std::string text;
  for (int i = 0; i < 700; ++i) text += "line " + std::to_string(i) + "\n";  // 6 kB
  const HeldOut split = hold_out({text}, 0.1, 0);
  EXPECT_EQ(split.evaluation.size(), 1u);
  EXPECT_GE(split.calibration.size(), 9u);
  EXPECT_GT(split.evaluation[0].size(), text.size() / 20);
  EXPECT_EQ(hold_out({std::string(384, 'x')}, 0.1, 0).evaluation.size(), 1u);  // 256 and 128
  EXPECT_TRUE(hold_out({std::string(383, 'x')}, 0.1, 0).evaluation.empty());
}

TEST(HoldOut, NeverCutsACharacter) {
  std::string text;
  while (text.size() < (300 << 10)) text += "设置";  // no line end anywhere
  const HeldOut split = hold_out({text}, 0.3, 0);
  for (const auto* part : {&split.calibration, &split.evaluation}) {
    for (const std::string& piece : *part) EXPECT_EQ(piece.size() % 3, 0u);
  }
}

}  // namespace
}  // namespace autoglm::eval
