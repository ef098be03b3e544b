#include "core/tokenizer/tokenizer_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "core/base/log.h"

namespace autoglm::tokenizer {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

// A small model: letters, "ab", "abc"; "<s>" is special.
json small() {
  return json::parse(R"({
    "version": "1.0",
    "added_tokens": [{"id": 7, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                      "normalized": false, "special": true}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "\\s+|x"}, "behavior": "Removed", "invert": false},
      {"type": "Punctuation"}]},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]}}},
    "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": false,
      "vocab": {"<unk>": 0, "a": 1, "b": 2, "c": 3, "ab": 4, "abc": 5, ".": 6},
      "merges": [["a", "b"], "ab c"]}})");
}

std::string error_of(const std::string& text) {
  const auto tokenizer = parse_tokenizer_json(text);
  EXPECT_FALSE(tokenizer.ok()) << text.substr(0, 300);
  const Status status = tokenizer.status();
  EXPECT_EQ(status.code(), StatusCode::kBadInput);
  EXPECT_THAT(status.message(), Not(HasSubstr("\n")));
  EXPECT_LT(status.message().size(), 400U);
  return status.message();
}

// The message after replacing what `pointer` points at.
std::string error_with(const std::string& pointer, const json& value) {
  json document = small();
  document[json::json_pointer(pointer)] = value;
  return error_of(document.dump());
}

TEST(TokenizerJson, TheSmallModelWorks) {
  const auto tokenizer = parse_tokenizer_json(small().dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_EQ((*tokenizer)->kind(), "bpe");
  EXPECT_THAT((*tokenizer)->encode("ABC. ab<s>zz", {.add_special_tokens = true}), ElementsAre(7, 5, 6, 4, 7, 0));
  EXPECT_EQ((*tokenizer)->decode(std::vector<int32_t>{7, 5, 6}, true), "abc.");
}

TEST(TokenizerJson, BrokenDocuments) {
  EXPECT_THAT(error_of(""), HasSubstr("not valid JSON at byte"));
  EXPECT_THAT(error_of("{"), HasSubstr("not valid JSON at byte"));
  EXPECT_THAT(error_of("[]"), HasSubstr("must be a JSON object"));
  EXPECT_THAT(error_of("12"), HasSubstr("must be a JSON object"));
  EXPECT_THAT(error_of("{}"), HasSubstr("'model' is missing"));
  EXPECT_THAT(error_of("{\"model\": 3}"), HasSubstr("'model' must be an object"));
  EXPECT_THAT(error_of(std::string("\xff\xfe\0", 3)), HasSubstr("not valid JSON"));
  EXPECT_THAT(error_of(std::string(200000, '[')), HasSubstr("nested deeper than 100 levels"));
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100000; ++i) deep += "{\"a\":";
  EXPECT_THAT(error_of(deep), HasSubstr("nested deeper than 100 levels"));
  const std::string whole = small().dump();
  for (size_t size = 0; size < whole.size(); ++size) error_of(whole.substr(0, size));
}

TEST(TokenizerJson, OtherModelsAreRefusedByName) {
  EXPECT_THAT(error_with("/model/type", "Unigram"), HasSubstr("of type 'Unigram'; known: BPE"));
  EXPECT_THAT(error_of(R"({"model": {"type": "WordPiece", "vocab": {"a": 0}}})"), HasSubstr("'WordPiece'"));
  EXPECT_THAT(error_of(R"({"model": {"type": "Unigram", "vocab": [["a", 0.5]]}})"), HasSubstr("'Unigram'"));
  EXPECT_THAT(error_of(R"({"model": {"type": "BPE", "vocab": {"a": 0}}})"), HasSubstr("'merges' is missing"));
  EXPECT_THAT(error_of(R"({"model": {"type": "BPE", "merges": []}})"), HasSubstr("'vocab' is missing"));
}

TEST(TokenizerJson, BrokenVocabulary) {
  EXPECT_THAT(error_with("/model/vocab/a", -1), HasSubstr("model.vocab: 'a': the id -1 is not between"));
  EXPECT_THAT(error_with("/model/vocab/a", 1LL << 40), HasSubstr("model.vocab: 'a': the id 1099511627776"));
  EXPECT_THAT(error_with("/model/vocab/a", UINT64_MAX), HasSubstr("model.vocab: 'a'"));
  EXPECT_THAT(error_with("/model/vocab/a", 1.5), HasSubstr("an id must be a whole number"));
  EXPECT_THAT(error_with("/model/vocab/a", "1"), HasSubstr("an id must be a whole number"));
  EXPECT_THAT(error_with("/model/vocab/a", nullptr), HasSubstr("an id must be a whole number"));
  EXPECT_THAT(error_with("/model/vocab/a", json::object()), HasSubstr("model.vocab"));
  EXPECT_THAT(error_with("/model/vocab/a", json::array()), HasSubstr("model.vocab"));
  EXPECT_THAT(error_with("/model/vocab/a", 2), HasSubstr("the id 2 is given to 'a' and to 'b'"));
  EXPECT_THAT(error_of(R"({"model": {"vocab": {"a": 0, "a": 1}, "merges": []}})"), HasSubstr("'a' occurs twice"));
  EXPECT_THAT(error_with("/model/unk_token", "?"), HasSubstr("unk_token '?' is not in the vocabulary"));
}

TEST(TokenizerJson, BrokenMerges) {
  EXPECT_THAT(error_with("/model/merges/1", "ab z"), HasSubstr("merges[1]: 'z' is not in the vocabulary"));
  EXPECT_THAT(error_with("/model/merges/1", "b c"), HasSubstr("merges[1]: 'bc' is not in the vocabulary"));
  EXPECT_THAT(error_with("/model/merges/1", "abc"), HasSubstr("model.merges[1]: 'abc' must be two tokens"));
  EXPECT_THAT(error_with("/model/merges/1", "a b c"), HasSubstr("model.merges[1]"));
  EXPECT_THAT(error_with("/model/merges/1", 3), HasSubstr("model.merges[1]: must be text"));
  EXPECT_THAT(error_with("/model/merges/1", json::array({"a"})), HasSubstr("must be a pair"));
  EXPECT_THAT(error_with("/model/merges/1", json::array({"a", 2})), HasSubstr("must be text"));
  EXPECT_THAT(error_with("/model/merges/1", json::array({"a", json::array()})), HasSubstr("array where none belongs"));
  EXPECT_THAT(error_with("/model/merges/1", json::object()), HasSubstr("object where none belongs"));
  EXPECT_THAT(error_with("/model/merges", "x"), HasSubstr("'merges' is missing, or no array"));
}

TEST(TokenizerJson, BrokenAddedTokens) {
  EXPECT_THAT(error_with("/added_tokens", 3), HasSubstr("'added_tokens' must be an array"));
  EXPECT_THAT(error_with("/added_tokens/0", 3), HasSubstr("added_tokens[0]: 'content' is missing"));
  EXPECT_THAT(error_with("/added_tokens/0/id", -3), HasSubstr("added_tokens[0]: the id -3"));
  EXPECT_THAT(error_with("/added_tokens/0/id", 1e30), HasSubstr("added_tokens[0]: an id must be a whole number"));
  EXPECT_THAT(error_with("/added_tokens/0/special", "yes"), HasSubstr("'special' must be true or false"));
  json document = small();
  document["added_tokens"].push_back(document["added_tokens"][0]);
  document["added_tokens"][1]["content"] = "<t>";
  EXPECT_THAT(error_of(document.dump()), HasSubstr("added_tokens[1]: the id 7 is given to '<s>' and to '<t>'"));
  document = small();
  document["model"]["vocab"]["."] = 7;
  document["added_tokens"] = {{{"id", 7}, {"content", "."}}, {{"id", 8}, {"content", "<s>"}}};
  EXPECT_THAT(error_of(document.dump()), HasSubstr("added_tokens[1]: '<s>' gets the id 7, which '.' has"));
}

TEST(TokenizerJson, VocabulariesMayHaveGaps) {
  json document = small();
  document["model"]["vocab"]["."] = 9;  // seven tokens: 7, of "<s>", is free; 6 and 8 are nobody's
  const auto tokenizer = parse_tokenizer_json(document.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_EQ((*tokenizer)->vocab_size(), 10);
  EXPECT_THAT((*tokenizer)->encode("ab.<s>"), ElementsAre(4, 9, 7));
  EXPECT_EQ((*tokenizer)->decode(std::vector<int32_t>{4, 6, 8, 10, -1, 9, 7}), "ab.<s>");
  EXPECT_EQ((*tokenizer)->id_to_token(6), "");
  EXPECT_FALSE((*tokenizer)->is_special(8));
}

// What the reference does (tests/tokenizer compares).
TEST(TokenizerJson, AnAddedTokenMayShareAnIdAndThatIsSaid) {
  json document = small();
  document["model"]["vocab"]["."] = 7;
  const auto tokenizer = parse_tokenizer_json(document.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_THAT((*tokenizer)->encode("ab.<s>"), ElementsAre(4, 7, 7));
  EXPECT_EQ((*tokenizer)->decode(std::vector<int32_t>{4, 7, 6}), "ab<s>");
  EXPECT_THAT(warnings(), testing::Contains(HasSubstr("'<s>' shares the id 7 with '.'")));
}

TEST(TokenizerJson, AddedTokensAreNumberedAsTheReferenceDoesAndThatIsSaid) {
  json document = small();
  document["added_tokens"][0]["id"] = 9;
  const auto tokenizer = parse_tokenizer_json(document.dump());
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_EQ((*tokenizer)->token_to_id("<s>"), 7);
  EXPECT_THAT(warnings(), testing::Contains(HasSubstr("'<s>' has the id 9 in the file, but 7")));
}

TEST(TokenizerJson, UnknownComponentsAreRefusedWithTheKnownOnes) {
  EXPECT_THAT(error_with("/normalizer", {{"type", "NFX"}}), HasSubstr("normalizer: unknown type 'NFX'"));
  EXPECT_THAT(error_with("/pre_tokenizer", {{"type", "BertPreTokenizer"}}), HasSubstr("Metaspace"));
  EXPECT_THAT(error_with("/decoder", {{"type", "WordPiece"}}), HasSubstr("decoder: unknown type 'WordPiece'"));
  EXPECT_THAT(error_with("/post_processor", {{"type", "Other"}}), HasSubstr("post_processor: unknown type 'Other'"));
  for (const std::string part : {"/normalizer", "/pre_tokenizer", "/decoder", "/post_processor"}) {
    EXPECT_THAT(error_with(part, 3), HasSubstr("must be an object"));
    EXPECT_THAT(error_with(part, json::object()), HasSubstr("'type' is missing"));
    EXPECT_THAT(error_with(part, {{"type", "Sequence"}}), HasSubstr("is missing"));
  }
}

TEST(TokenizerJson, BrokenComponents) {
  const std::string split = "/pre_tokenizer/pretokenizers/0";
  EXPECT_THAT(error_with(split + "/pattern/Regex", "(a"), HasSubstr("does not compile"));
  EXPECT_THAT(error_with(split + "/pattern/Regex", "a)"), HasSubstr("')' without '('"));
  EXPECT_THAT(error_with(split + "/pattern/Regex", "[a"), HasSubstr("'[' without ']'"));
  EXPECT_THAT(error_with(split + "/pattern/Regex", "*"), HasSubstr("repeats nothing"));
  EXPECT_THAT(error_with(split + "/pattern/Regex", "\\p{Foo}"), HasSubstr("unknown property 'Foo'"));
  EXPECT_THAT(error_with(split + "/pattern/Regex", "(?~a)"), HasSubstr("absent operator"));
  EXPECT_THAT(error_with(split + "/pattern/Regex", "\\X"), HasSubstr("\\X, which is not supported"));
  EXPECT_THAT(error_with(split + "/pattern/Regex", std::string(40000, 'a')), HasSubstr("longer than 32768 bytes"));
  EXPECT_THAT(error_with(split + "/pattern/Regex", std::string(10000, '(')), HasSubstr("regular expression"));
  EXPECT_THAT(error_with(split + "/pattern", json::object()), HasSubstr("'Regex' is missing"));
  EXPECT_THAT(error_with(split + "/behavior", "isolate"), HasSubstr("did you mean 'Isolated'"));
  EXPECT_THAT(error_with("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "ab"}}), HasSubstr("one character"));
  EXPECT_THAT(error_with("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "last"}}),
              HasSubstr("unknown prepend_scheme 'last'"));
  EXPECT_THAT(error_with("/decoder", {{"type", "Strip"}, {"content", " "}, {"start", -1}, {"stop", 0}}),
              HasSubstr("'start' is negative"));
  EXPECT_THAT(error_with("/post_processor/special_tokens", json::object()), HasSubstr("'special_tokens' lacks '<s>'"));
  EXPECT_THAT(error_with("/post_processor/single/1/Sequence/id", "B"), HasSubstr("second sequence"));
}

TEST(TokenizerJson, ComponentsCannotAskForUnboundedWork) {
  json sequence = {{"type", "NFC"}};
  for (int i = 0; i < 20; ++i) sequence = {{"type", "Sequence"}, {"normalizers", json::array({sequence})}};
  EXPECT_THAT(error_with("/normalizer", sequence), HasSubstr("nest deeper than 16 levels"));
  const json doubling = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
  EXPECT_THAT(error_with("/normalizer", {{"type", "Sequence"}, {"normalizers", json(std::vector<json>(30, doubling))}}),
              HasSubstr("more than 256 times longer"));
  EXPECT_THAT(error_with("/decoder", {{"type", "Sequence"}, {"decoders", json(std::vector<json>(30, doubling))}}),
              HasSubstr("more than 256 times longer"));
  const json mapping = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  EXPECT_THAT(
      error_with("/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", json(std::vector<json>(30, mapping))}}),
      HasSubstr("more than 256 times longer"));
  EXPECT_THAT(
      error_with("/pre_tokenizer", {{"type", "Sequence"},
                                    {"pretokenizers", json(std::vector<json>(1000, {{"type", "WhitespaceSplit"}}))}}),
      HasSubstr("more than 256 steps"));
}

TEST(TokenizerJson, ARegexThatExplodesGivesUpAndSaysSo) {
  json document = small();
  document["normalizer"] = nullptr;
  document["pre_tokenizer"] = {
      {"type", "Split"}, {"pattern", {{"Regex", "(a|a)*(a|aa)+(aa|a)+[yz]"}}}, {"behavior", "Isolated"}};
  const auto tokenizer = parse_tokenizer_json(document.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  EXPECT_EQ((*tokenizer)->encode(std::string(60, 'a')).size(), 60U);
  EXPECT_THAT(warnings(), testing::Contains(HasSubstr("gave up on a text")));
}

TEST(TokenizerJson, HonestPatternsDoNotGiveUpOnLongText) {
  json document = small();
  document["normalizer"] = nullptr;
  document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] =
      R"([^\r\n\p{L}\p{N}]?\p{L}+|(?:\p{N}|b)++| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const auto tokenizer = parse_tokenizer_json(document.dump());
  ASSERT_TRUE(tokenizer.ok());
  const size_t before = warnings().size();
  for (const char c : {' ', 'a', '1', '.', '\n'}) (*tokenizer)->encode(std::string(2'000'000, c) + "a");
  EXPECT_EQ(warnings().size(), before);
}

// Bytes of a valid file are changed at random: whatever comes out loads or is refused with one line, and what loads
// works.
TEST(TokenizerJson, MutatedFilesNeverCrash) {
  const std::string whole = small().dump();
  std::mt19937 random(20240301);
  const auto pick = [&](size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random); };
  const std::vector<std::string> words = {"-1", "99999999999", "null",         "\"\"", "{}",
                                          "[]", "\\u0000",     "\"Sequence\"", "1e9"};
  int loaded = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string text = whole;
    for (size_t changes = 1 + pick(4); changes > 0; --changes) {
      const size_t at = pick(text.size());
      switch (pick(5)) {
        case 0: text[at] = static_cast<char>(pick(256)); break;
        case 1: text.erase(at, 1 + pick(8)); break;
        case 2: text.insert(at, words[pick(words.size())]); break;
        case 3: text.insert(at, text.substr(pick(text.size()), pick(40))); break;
        default: std::swap(text[at], text[pick(text.size())]);
      }
      if (text.empty()) text = " ";
    }
    const auto tokenizer = parse_tokenizer_json(text);
    if (!tokenizer.ok()) {
      ASSERT_THAT(tokenizer.status().message(), Not(HasSubstr("\n")));
      continue;
    }
    ++loaded;
    const std::vector<int32_t> ids = (*tokenizer)->encode("Abc.  ab x<s>\xff zz\n", {.add_special_tokens = true});
    (*tokenizer)->decode(ids);
  }
  EXPECT_GT(loaded, 50);
}

class TokenizerFolder : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) / "tokenizer_folder";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void write(const std::string& name, const std::string& bytes) {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
  }
  std::string load_error() {
    testing::internal::CaptureStderr();
    const auto tokenizer = Tokenizer::load(folder_);
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
    EXPECT_FALSE(tokenizer.ok());
    EXPECT_THAT(tokenizer.status().message(), Not(HasSubstr("\n")));
    return tokenizer.status().message();
  }
  std::filesystem::path folder_;
};

TEST_F(TokenizerFolder, NothingThere) {
  EXPECT_THAT(load_error(), HasSubstr("neither tokenizer.json nor tokenizer.model is there"));
  std::filesystem::remove_all(folder_);
  EXPECT_THAT(load_error(), HasSubstr("neither tokenizer.json nor tokenizer.model is there"));
}

TEST_F(TokenizerFolder, DirectoriesAndEmptyFiles) {
  std::filesystem::create_directory(folder_ / "tokenizer.model");
  EXPECT_THAT(load_error(), HasSubstr("tokenizer.model"));
  std::filesystem::remove(folder_ / "tokenizer.model");
  write("tokenizer.model", "");
  EXPECT_THAT(load_error(), HasSubstr("tokenizer.model: not a sentencepiece model"));
  write("tokenizer.json", "");
  EXPECT_THAT(load_error(), HasSubstr("tokenizer.json: not valid JSON"));
  std::filesystem::remove(folder_ / "tokenizer.json");
  std::filesystem::create_directory(folder_ / "tokenizer.json");
  EXPECT_THAT(load_error(), HasSubstr("tokenizer.json"));
}

TEST_F(TokenizerFolder, BrokenTiktokenLines) {
  write("tokenizer.model", "IQ== 0\nIg== x\n");
  EXPECT_THAT(load_error(), HasSubstr("tokenizer.model: line 2: 'Ig== x' is not a token in base64 and its rank"));
  write("tokenizer.model", "IQ== 0\nIg== 0\n");
  EXPECT_THAT(load_error(), HasSubstr("line 2: the id 0 is given to"));
  write("tokenizer.model", "IQ== 0\nIQ== 1\n");
  EXPECT_THAT(load_error(), HasSubstr("line 2: the token '!' occurs twice"));
  write("tokenizer.model", "IQ== 0\nIg== -1\n");
  EXPECT_THAT(load_error(), HasSubstr("line 2"));
  write("tokenizer.model", "IQ== 0\nI*== 1\n");
  EXPECT_THAT(load_error(), HasSubstr("line 2"));
  write("tokenizer.model", "IQ== 0\nIg== 1\n");
  EXPECT_THAT(load_error(), HasSubstr("the byte 0x00 has no token"));
  write("tokenizer_config.json", R"({"added_tokens_decoder": {"0": {"content": "<s>"}}})");
  EXPECT_THAT(load_error(), HasSubstr("gives '<s>' the id 0, which is taken"));
  write("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "<s>"}}})");
  EXPECT_THAT(load_error(), HasSubstr("tokenizer_config.json: added_tokens_decoder: 'x' is no token id"));
  write("tokenizer_config.json", "{");
  EXPECT_THAT(load_error(), HasSubstr("tokenizer_config.json: not valid JSON"));
}

}  // namespace
}  // namespace autoglm::tokenizer
