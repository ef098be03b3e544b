#include "core/eval/calibration_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "core/eval/dataset.h"
#include "core/eval/fake_tokenizer.h"
#include "core/eval/test_folder.h"

namespace autoglm::eval {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

CalibrationSet example() {
  CalibrationSet set;
  set.tokenizer = "feed";
  set.samples = 3;
  set.length = 4;
  set.seed = 18446744073709551615ULL;
  set.join = true;
  set.documents = 9;
  set.duplicates_removed = 2;
  set.near_duplicates_removed = 1;
  set.too_short = 3;
  set.sources = {{"b.txt", "cafe"}, {"self", ""}};
  set.sequences = {{{1, 2, 3, 4}, "text \"with\"\nlines", "b.txt", "latin", {0, 5}},
                   {{9, 8}, "短", "self", "zh", {1}},
                   {{0, 0, 0, 0}, "more", "b.txt", "latin", {2}}};
  return set;
}

class CalibrationSetTest : public testing::Test {
 protected:
  std::string refusal(const std::string& text) {
    const auto set = read_calibration_set(folder_.write("set.jsonl", text), 10);
    EXPECT_EQ(set.status().code(), StatusCode::kBadInput);
    EXPECT_THAT(set.status().message(), AllOf(HasSubstr("set.jsonl"), testing::Not(HasSubstr("\n"))));
    return set.status().message();
  }
  /// The example with a piece of it replaced.
  std::string with(const std::string& from, const std::string& to) {
    std::string text = to_text(example());
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  }

  TestFolder folder_;
};

TEST_F(CalibrationSetTest, WhatIsWrittenIsRead) {
  const std::string text = to_text(example());
  const auto file = folder_.write("set.jsonl", text);
  EXPECT_TRUE(is_calibration_set(file));
  const auto set = read_calibration_set(file, 10);
  ASSERT_TRUE(set.ok()) << set.status().message();
  EXPECT_EQ(to_text(*set), text);
  EXPECT_EQ(set->tokens(), 10);
  EXPECT_EQ(set->seed, example().seed);
  const auto header = read_set_header(file);
  ASSERT_TRUE(header.ok());
  EXPECT_TRUE(header->sequences.empty());
  EXPECT_EQ(header->samples, 3);
  EXPECT_EQ(header->sources[0].sha256, "cafe");
}

TEST_F(CalibrationSetTest, OtherFilesAreNoSets) {
  EXPECT_FALSE(is_calibration_set(folder_.path() / "nothing.jsonl"));
  EXPECT_FALSE(is_calibration_set(folder_.path()));
  EXPECT_FALSE(is_calibration_set(folder_.write("a.jsonl", "")));
  EXPECT_FALSE(is_calibration_set(folder_.write("b.jsonl", "{\"text\": \"calibration_set\"}\n")));
  EXPECT_FALSE(is_calibration_set(folder_.write("c.txt", to_text(example()))));
  EXPECT_TRUE(is_calibration_set(folder_.write("d.jsonl", "{\"by\": \"hand\", \"calibration_set\": 7}")));
}

TEST_F(CalibrationSetTest, NoSetIsReadAsText) {
  const auto file = folder_.write("set.jsonl", to_text(example()));
  EXPECT_THAT(read_documents(file, nullptr).status().message(),
              AllOf(HasSubstr("set.jsonl:1"), HasSubstr("--calibration-dataset")));
}

TEST_F(CalibrationSetTest, WhatIsWrongIsNamedWithItsLine) {
  EXPECT_THAT(refusal(with("\"calibration_set\":1", "\"calibration_set\":2")),
              HasSubstr("set.jsonl:1: a calibration set of version 2"));
  EXPECT_THAT(refusal(with("\"samples\":3", "\"samples\":0")), HasSubstr("set.jsonl:1: `samples` should be"));
  EXPECT_THAT(refusal(with("\"samples\":3", "\"samples\":18446744073709551615")), HasSubstr(":1: `samples`"));
  EXPECT_THAT(refusal(with("\"length\":4", "\"length\":\"4\"")), HasSubstr(":1: `length`"));
  EXPECT_THAT(refusal(with("\"tokenizer\":\"feed\"", "\"tokenizer\":7")), HasSubstr(":1: `tokenizer`"));
  EXPECT_THAT(refusal(with("\"documents\":9", "\"documents\":-9")), HasSubstr(":1: `documents`"));
  EXPECT_THAT(refusal(with("\"name\":\"self\"", "\"nome\":\"self\"")), HasSubstr(":1: `name`"));
  EXPECT_THAT(refusal(with("[9,8]", "[9,10]")),
              HasSubstr("set.jsonl:3: `tokens` holds '10', not a whole number below 10"));
  EXPECT_THAT(refusal(with("[9,8]", "[9,-1]")), HasSubstr(":3: `tokens` holds '-1'"));
  EXPECT_THAT(refusal(with("[9,8]", "[9,1.5]")), HasSubstr(":3: `tokens` holds '1.5'"));
  EXPECT_THAT(refusal(with("[9,8]", "[9,\"\\u0007\"]")), HasSubstr(":3: `tokens` holds"));
  EXPECT_THAT(refusal(with("[9,8]", "[9]")), HasSubstr(":3: a sequence of 1 tokens"));
  EXPECT_THAT(refusal(with("[9,8]", "[1,2,3,4,5]")), HasSubstr(":3: a sequence of 5 tokens"));
  EXPECT_THAT(refusal(with("\"documents\":[1]", "\"documents\":{}")), HasSubstr(":3: `documents` should be a list"));
  EXPECT_THAT(refusal(with("{\"tokens\":[9", "{\"tokens\":[9,")), HasSubstr("set.jsonl:3: "));
  EXPECT_THAT(refusal("no JSON\n"), HasSubstr("set.jsonl:1: "));
  EXPECT_THAT(refusal("[]\n"), HasSubstr("set.jsonl:1: this is no calibration set"));
  EXPECT_THAT(refusal(""), HasSubstr("set.jsonl:1: "));
}

TEST_F(CalibrationSetTest, CutShortOrLengthened) {
  const std::string text = to_text(example());
  EXPECT_THAT(refusal(text.substr(0, text.rfind("{\"tokens"))), HasSubstr("cut short: 2 of 3 sequences"));
  EXPECT_THAT(refusal(text.substr(0, text.size() - 20)), HasSubstr("set.jsonl:4: "));
  EXPECT_THAT(refusal(text + text.substr(text.rfind("{\"tokens"))), HasSubstr("set.jsonl:5: more than the 3"));
}

TEST_F(CalibrationSetTest, ShowsItsStrata) {
  const std::string text = describe(example());
  for (const char* word : {"3 sequences of up to 4 tokens, 10 tokens in all", "b.txt", "self", "zh", "2-3"}) {
    EXPECT_THAT(text, HasSubstr(word));
  }
  EXPECT_LT(text.find("b.txt"), text.find("self"));
  EXPECT_THAT(to_json(example()), HasSubstr("\"sequences\": 2"));
}

TEST(Hashes, TellVocabulariesAndTokensApart) {
  class Other : public ByteTokenizer {
    std::string id_to_token(int32_t id) const override { return id == 7 ? "seven" : ByteTokenizer::id_to_token(id); }
  };
  EXPECT_EQ(vocabulary_hash(ByteTokenizer()), vocabulary_hash(ByteTokenizer()));
  EXPECT_NE(vocabulary_hash(ByteTokenizer()), vocabulary_hash(Other()));
  const std::string hash = tokens_hash({{1, 2}, {3}});
  EXPECT_EQ(hash, tokens_hash({{1, 2}, {3}}));
  for (const std::vector<Tokens>& other : {std::vector<Tokens>{{1}, {2, 3}}, {{1, 2, 3}}, {{3}, {1, 2}}, {}}) {
    EXPECT_NE(hash, tokens_hash(other));
  }
}

}  // namespace
}  // namespace autoglm::eval
