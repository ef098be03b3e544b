#include "core/eval/calibration_builder.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "core/eval/fake_tokenizer.h"

namespace autoglm::eval {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// `count` documents of `words` words that no other has, made of the word `source`.
std::vector<std::string> documents(const std::string& source, int count, int words) {
  std::vector<std::string> out;
  for (int i = 0; i < count; ++i) {
    std::string& text = out.emplace_back();
    for (int w = 0; w < words; ++w) text += fmt::format("{}{} ", source, i * 1000 + w);
    text.back() = '\n';
  }
  return out;
}

class BuilderTest : public testing::Test {
 protected:
  Result<CalibrationSet> build(const std::map<std::string, std::vector<std::string>>& sources, BuildOptions options) {
    std::vector<int64_t> sizes;
    for (const auto& [name, texts] : sources) {
      sizes.push_back(0);
      for (const std::string& text : texts) sizes.back() += static_cast<int64_t>(text.size());
    }
    CalibrationBuilder builder(tokenizer_, options, sizes);
    for (const auto& [name, texts] : sources) {
      AUTOGLM_RETURN_IF_ERROR(builder.add(SetSource{name, ""}, texts, cancel_));
    }
    return builder.build();
  }

  ByteTokenizer tokenizer_;  // a token for each byte
  CancelToken cancel_;
};

TEST_F(BuilderTest, SequencesStayWithinADocument) {
  const std::map<std::string, std::vector<std::string>> sources = {{"a", documents("a", 40, 9)},
                                                                   {"b", documents("b", 20, 60)}};
  const auto set = build(sources, {.samples = 1000, .length = 128});
  ASSERT_TRUE(set.ok()) << set.status().message();
  std::set<std::pair<std::string, int64_t>> seen;
  for (const SetSequence& sequence : set->sequences) {
    ASSERT_EQ(sequence.documents.size(), 1u);
    EXPECT_GE(sequence.tokens.size(), 16u);
    EXPECT_LE(sequence.tokens.size(), 128u);
    const std::string& document = sources.at(sequence.source)[static_cast<size_t>(sequence.documents[0])];
    EXPECT_THAT(document, HasSubstr(sequence.text));
    EXPECT_EQ(tokenizer_.decode(sequence.tokens), sequence.text);
    // Shorter ones are whole documents.
    EXPECT_TRUE(sequence.tokens.size() == 128 || sequence.text == document);
    seen.emplace(sequence.source, sequence.documents[0]);
  }
  EXPECT_EQ(seen.size(), 60u);
  EXPECT_EQ(set->samples, static_cast<int64_t>(set->sequences.size()));
}

TEST_F(BuilderTest, JoinedOnesAreFullAndNameTheirDocuments) {
  const auto texts = documents("a", 40, 9);
  const auto set = build({{"a", texts}}, {.samples = 1000, .length = 256, .join = true});
  ASSERT_TRUE(set.ok()) << set.status().message();
  EXPECT_GE(set->samples, 8);
  for (const SetSequence& sequence : set->sequences) {
    EXPECT_EQ(sequence.tokens.size(), 256u);
    ASSERT_GE(sequence.documents.size(), 2u);
    std::string joined;
    for (const int64_t i : sequence.documents) joined += texts[static_cast<size_t>(i)];
    EXPECT_THAT(joined, HasSubstr(sequence.text));
  }
}

TEST_F(BuilderTest, AJoinedSequenceNamesOnlyWhatIsInIt) {
  std::vector<std::string> texts;  // of 32 bytes each: two fill a sequence
  for (int i = 0; i < 8; ++i) texts.push_back(fmt::format("text{} with{} many{} more{} phrase{}\n", i, i, i, i, i));
  const auto set = build({{"a", texts}}, {.samples = 8, .length = 64, .join = true});
  ASSERT_TRUE(set.ok()) << set.status().message();
  ASSERT_EQ(texts[0].size(), 32u);
  EXPECT_EQ(set->samples, 4);
  for (const SetSequence& sequence : set->sequences) EXPECT_EQ(sequence.documents.size(), 2u);
}

TEST_F(BuilderTest, EveryStratumGivesSome) {
  const auto set = build({{"large", documents("l", 2000, 20)},
                          {"long", documents("o", 3, 400)},
                          {"small", documents("s", 2, 20)},
                          {"russian", documents("слово", 5, 20)}},
                         {.samples = 40, .length = 256});
  ASSERT_TRUE(set.ok()) << set.status().message();
  EXPECT_EQ(set->samples, 40);
  std::map<std::string, int> of;
  for (const SetSequence& sequence : set->sequences) ++of[sequence.source + " " + sequence.language];
  EXPECT_EQ(of.size(), 4u);
  EXPECT_GE(of["small latin"], 1);
  EXPECT_GE(of["russian cyrillic"], 1);
  EXPECT_GT(of["large latin"], of["long latin"]);
  // The first of them are spread in the same way.
  std::set<std::string> first;
  for (size_t i = 0; i < 6; ++i) first.insert(set->sequences[i].source);
  EXPECT_EQ(first.size(), 4u);
}

TEST_F(BuilderTest, DuplicatesAreRemovedAcrossSources) {
  auto twice = documents("a", 10, 40);
  twice.push_back("A" + twice[3].substr(1));
  const std::string near = twice[4].substr(0, twice[4].size() - 1) + " and one more\n";
  const auto set = build({{"1", twice}, {"2", {twice[5], near}}}, {.samples = 100, .length = 4096});
  ASSERT_TRUE(set.ok()) << set.status().message();
  EXPECT_EQ(set->samples, 10);
  EXPECT_EQ(set->documents, 13);
  EXPECT_EQ(set->duplicates_removed, 2);
  EXPECT_EQ(set->near_duplicates_removed, 1);
}

TEST_F(BuilderTest, ASeedGivesTheSameBytes) {
  const std::map<std::string, std::vector<std::string>> sources = {{"a", documents("a", 100, 40)}};
  const auto text = [&](uint64_t seed) { return to_text(*build(sources, {.samples = 8, .length = 64, .seed = seed})); };
  EXPECT_EQ(text(1), text(1));
  EXPECT_NE(text(1), text(2));
}

TEST_F(BuilderTest, OfMuchTextOnlySoMuchIsLookedAt) {
  const auto large = documents("l", 4000, 300), small = documents("s", 10, 300);
  const auto set = build({{"large", large}, {"small", small}}, {.samples = 100, .length = 64});
  ASSERT_TRUE(set.ok()) << set.status().message();
  EXPECT_LT(set->documents, 3000);
  int of_small = 0;
  for (const SetSequence& sequence : set->sequences) of_small += sequence.source == "small" ? 1 : 0;
  EXPECT_THAT(of_small, testing::AllOf(testing::Ge(3), testing::Le(8)));  // sqrt(1 / 401) of 100
}

TEST_F(BuilderTest, SequencesOfTheModelAreTakenAsTheyAre) {
  CalibrationBuilder builder(tokenizer_, {.samples = 8, .length = 64}, {});
  Tokens one(64), other(64);
  for (int i = 0; i < 64; ++i) one[static_cast<size_t>(i)] = 'a' + i % 26, other[static_cast<size_t>(i)] = 'z' - i % 23;
  ASSERT_TRUE(builder.add(SetSource{"self", ""}, {one, other, one}, cancel_).ok());
  const auto set = builder.build();
  ASSERT_TRUE(set.ok());
  EXPECT_EQ(set->samples, 2);
  EXPECT_EQ(set->duplicates_removed, 1);
  EXPECT_THAT(set->sequences[0].documents, ElementsAre(testing::Le(1)));
}

TEST_F(BuilderTest, NothingToMakeASetOf) {
  const auto empty = build({{"a", {}}}, {});
  EXPECT_EQ(empty.status().code(), StatusCode::kBadInput);
  const auto few = build({{"a", {"two words", "three", "Three"}}}, {.samples = 2, .length = 64});
  EXPECT_THAT(few.status().message(), HasSubstr("of 3 documents 1 were duplicates and 2 had fewer than 16 tokens"));
  cancel_.cancel();
  EXPECT_EQ(build({{"a", documents("a", 2, 40)}}, {}).status().code(), StatusCode::kCancelled);
}

}  // namespace
}  // namespace autoglm::eval
