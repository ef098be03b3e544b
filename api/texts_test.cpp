#include "api/texts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "core/format/file.h"

namespace autoglm::api {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class TextsTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / "texts";
    fs::remove_all(folder_);
    fs::create_directories(model());
    fs::create_directories(folder_ / "many");
    for (const char* name : {"a.txt", "many/b.txt", "many/c.txt"}) write(name);
    fs::create_hard_link(folder_ / "many/b.txt", folder_ / "also_b.txt");
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path model() const { return folder_ / "model"; }
  fs::path at(const std::string& name) const { return folder_ / name; }

  /// 200 KB of lines that no other file has.
  void write(const std::string& name) const {
    fs::create_directories(at(name).parent_path());
    std::ofstream file(at(name));
    for (int i = 0; i < 10'000; ++i) file << name << " line " << i << "\n";
  }
  Result<Texts> assign(const std::string& calibration, const std::string& evaluation) const {
    Settings settings;
    if (!calibration.empty()) settings.calibration = at(calibration).string();
    if (!evaluation.empty()) settings.evaluation = at(evaluation).string();
    AUTOGLM_ASSIGN_OR_RETURN(const std::string found, find_calibration(settings, model()));
    return assign_texts(settings, model(), found);
  }
  static size_t bytes(const std::vector<std::string>& documents) {
    size_t sum = 0;
    for (const std::string& document : documents) sum += document.size();
    return sum;
  }

  fs::path folder_;
};

TEST_F(TextsTest, OtherTextIsReadWhole) {
  const auto texts = assign("a.txt", "many");
  ASSERT_TRUE(texts.ok()) << texts.status().message();
  EXPECT_THAT(texts->for_calibration, ElementsAre(at("a.txt")));
  EXPECT_THAT(texts->for_both, IsEmpty());
  EXPECT_THAT(texts->for_evaluation, ElementsAre(at("many/b.txt"), at("many/c.txt")));
  const auto split = read_texts(*texts, nullptr, 0);
  ASSERT_TRUE(split.ok()) << split.status().message();
  EXPECT_EQ(bytes(split->calibration), fs::file_size(at("a.txt")));
  EXPECT_THAT(split->evaluation, IsEmpty());
}

TEST_F(TextsTest, AFileForBothIsSplitUnderWhateverName) {
  const auto texts = assign("many", "also_b.txt");
  ASSERT_TRUE(texts.ok()) << texts.status().message();
  EXPECT_THAT(texts->for_calibration, ElementsAre(at("many/c.txt")));
  EXPECT_THAT(texts->for_both, ElementsAre(at("many/b.txt")));
  EXPECT_THAT(texts->for_evaluation, IsEmpty());
  const auto split = read_texts(*texts, nullptr, 0);
  ASSERT_TRUE(split.ok()) << split.status().message();
  ASSERT_EQ(split->evaluation.size(), 1u);
  EXPECT_THAT(split->evaluation[0], HasSubstr("many/b.txt line "));
  EXPECT_EQ(std::count(split->calibration.begin(), split->calibration.end(), split->evaluation[0]), 0);
  EXPECT_EQ(bytes(split->calibration) + bytes(split->evaluation),
            fs::file_size(at("many/b.txt")) + fs::file_size(at("many/c.txt")));
}

TEST_F(TextsTest, ACopyIsTheSameText) {
  fs::copy_file(at("a.txt"), at("copy.txt"));
  const auto texts = assign("a.txt", "copy.txt");
  ASSERT_TRUE(texts.ok()) << texts.status().message();
  EXPECT_THAT(texts->for_calibration, IsEmpty());
  EXPECT_THAT(texts->for_both, ElementsAre(at("a.txt")));
  EXPECT_THAT(texts->for_evaluation, IsEmpty());
  std::fstream(at("copy.txt"), std::ios::in | std::ios::out) << "A";  // as long, but other text
  EXPECT_THAT(assign("a.txt", "copy.txt")->for_evaluation, ElementsAre(at("copy.txt")));
}

TEST_F(TextsTest, WithoutTextToEvaluateOnAShareIsHeldBack) {
  const auto texts = assign("many", "");
  ASSERT_TRUE(texts.ok()) << texts.status().message();
  EXPECT_THAT(texts->for_calibration, IsEmpty());
  EXPECT_THAT(texts->for_both, ElementsAre(at("many/b.txt"), at("many/c.txt")));
  EXPECT_GT(bytes(read_texts(*texts, nullptr, 0)->evaluation), 0u);
}

TEST_F(TextsTest, TheModelsOwnTasksComeFirstAndAreNotCalibratedOn) {
  write("model/tasks/eval.jsonl");
  write("model/tasks/calibration.jsonl");
  const auto texts = assign("", "");
  ASSERT_TRUE(texts.ok()) << texts.status().message();
  EXPECT_THAT(texts->for_calibration, ElementsAre(at("model/tasks/calibration.jsonl")));
  EXPECT_THAT(texts->for_both, IsEmpty());
  EXPECT_THAT(assign("", "model/tasks/calibration.jsonl")->for_both, ElementsAre(at("model/tasks/calibration.jsonl")));
  for (const char* calibration : {"model/tasks/eval.jsonl", "model/tasks", "model/../model/tasks/eval.jsonl"}) {
    for (const char* evaluation : {"", "a.txt"}) {  // the tasks are asked in either case
      const Status status = assign(calibration, evaluation).status();
      EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
      EXPECT_THAT(status.message(), HasSubstr("tasks/eval.jsonl), which may not be calibrated on"));
    }
  }
}

TEST_F(TextsTest, WhatIsNamedMustBeThere) {
  EXPECT_THAT(assign("none.txt", "").status().message(), HasSubstr("none.txt: no such file"));
  EXPECT_THAT(assign("", "none.txt").status().message(), HasSubstr("none.txt: no such file"));
  EXPECT_THAT(assign("model", "").status().message(), HasSubstr("holds no .txt or .jsonl"));
}

TEST_F(TextsTest, ShortTextCannotBeForBoth) {
  std::ofstream(at("short.txt")) << "one line\n";
  EXPECT_THAT(read_texts(*assign("short.txt", "short.txt"), nullptr, 0).status().message(),
              HasSubstr("give two files"));
  const auto split = read_texts(*assign("short.txt", ""), nullptr, 0);  // the model writes its own text
  ASSERT_TRUE(split.ok()) << split.status().message();
  EXPECT_THAT(split->calibration, ElementsAre("one line\n"));
  EXPECT_THAT(split->evaluation, IsEmpty());
  std::ofstream(at("empty.txt")) << "\n";
  EXPECT_THAT(read_texts(*assign("empty.txt", "a.txt"), nullptr, 0).status().message(),
              HasSubstr("empty.txt: there is no"));
  EXPECT_THAT(read_texts(*assign("a.txt", "empty.txt"), nullptr, 0).status().message(),
              HasSubstr("empty.txt: there is no"));
}

class SetTest : public TextsTest {
 protected:
  void SetUp() override {
    TextsTest::SetUp();
    set_.tokenizer = "feed";
    set_.samples = 2;
    set_.length = 64;
    set_.sources = {{"b.txt", *format::sha256_of_file(at("many/b.txt"))}};
    set_.sequences = {{{1, 2}, "", "b.txt", "", {}}, {{3, 4, 5}, "", "b.txt", "", {}}};
    std::ofstream(at("set.jsonl")) << eval::to_text(set_);
  }
  eval::CalibrationSet set_;
};

TEST_F(SetTest, IsNoTextToSplit) {
  const auto texts = assign("set.jsonl", "");
  ASSERT_TRUE(texts.ok()) << texts.status().message();
  ASSERT_TRUE(texts->set);
  EXPECT_EQ(texts->set->samples, 2);
  EXPECT_THAT(texts->for_both, IsEmpty());
  EXPECT_THAT(texts->for_evaluation, IsEmpty());
  const auto split = read_texts(*texts, nullptr, 0);
  ASSERT_TRUE(split.ok()) << split.status().message();
  EXPECT_THAT(split->evaluation, IsEmpty());
}

TEST_F(SetTest, WhatItWasMadeFromIsNotEvaluatedOn) {
  EXPECT_TRUE(assign("set.jsonl", "a.txt").ok());
  for (const char* same : {"many", "also_b.txt"}) {
    const auto refused = assign("set.jsonl", same);
    EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(refused.status().message(), HasSubstr("b.txt: is evaluated on"));
  }
  fs::create_directories(model() / "tasks");
  fs::copy_file(at("many/b.txt"), model() / "tasks/eval.jsonl");
  EXPECT_THAT(assign("set.jsonl", "a.txt").status().message(), HasSubstr("eval.jsonl: is evaluated on"));
}

TEST_F(SetTest, IsNotEvaluatedOnItself) {
  const auto texts = assign("set.jsonl", "set.jsonl");
  ASSERT_TRUE(texts.ok());
  EXPECT_THAT(read_texts(*texts, nullptr, 0).status().message(),
              HasSubstr("set.jsonl:1: a calibration set is no text"));
}

TEST_F(SetTest, SaysHowManyAndHowLong) {
  const auto texts = assign("set.jsonl", "");
  ASSERT_TRUE(texts.ok());
  Settings settings;
  ASSERT_TRUE(follow_set(*texts, 64, settings).ok());
  EXPECT_EQ(settings.calibration_samples, 2);
  EXPECT_EQ(settings.calibration_length, 64);
  settings.samples_given = true;
  settings.calibration_samples = 1;
  ASSERT_TRUE(follow_set(*texts, 0, settings).ok());
  EXPECT_EQ(settings.calibration_samples, 1);
  const Status refused = follow_set(*texts, 63, settings);
  EXPECT_EQ(refused.code(), StatusCode::kBadInput);
  EXPECT_THAT(refused.message(), HasSubstr("--length 63"));
}

}  // namespace
}  // namespace autoglm::api
