#include "compress/pass/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <fstream>

#include "core/format/testing.h"

namespace autoglm::pass {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class JournalTest : public format::FolderTest {
 protected:
  void SetUp() override {
    make_folder(fs::temp_directory_path());
    target_ = folder_ / "out";
    left_ = folder_ / ".out.autoglm-resume";
  }

  static Status add(const Journal& journal, const std::string& part, const nlohmann::json& record = {}) {
    AUTOGLM_ASSIGN_OR_RETURN(format::CheckpointWriter writer, journal.begin(part, nullptr));
    const std::array<std::byte, 4> bytes = {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
    AUTOGLM_RETURN_IF_ERROR(writer.add("weight", format::DType::kU8, {4}, bytes));
    AUTOGLM_RETURN_IF_ERROR(writer.write_file("beside.txt", "beside"));
    return journal.finish(writer, record).status();
  }

  fs::path target_, left_;
  const nlohmann::json run_ = {{"seed", 1}, {"recipe", {{"scheme", "int4"}}}};
};

TEST_F(JournalTest, KeepsWholePartsForTheNextRun) {
  {
    const auto journal = Journal::open(target_, run_, true);
    ASSERT_TRUE(journal.ok()) << journal.status().message();
    ASSERT_TRUE(add(*journal, "a", {{"kept", true}}).ok());
    const auto half = journal->begin("b", nullptr);  // never finished
    ASSERT_TRUE(half.ok());
    EXPECT_EQ(journal->parts(), 1);
  }
  auto journal = Journal::open(target_, run_, true);
  ASSERT_TRUE(journal.ok()) << journal.status().message();
  EXPECT_TRUE(journal->has("a") && !journal->has("b"));
  const auto part = journal->read("a", nullptr);
  ASSERT_TRUE(part.ok()) << part.status().message();
  EXPECT_EQ(part->record, nlohmann::json({{"kept", true}}));
  EXPECT_EQ(part->tensors.names(), std::vector<std::string>{"weight"});
  journal->remove();
  EXPECT_FALSE(fs::exists(left_));
}

TEST_F(JournalTest, LeavesNothingUnlessItIsToBeResumed) {
  {
    const auto journal = Journal::open(target_, run_, false);
    ASSERT_TRUE(journal.ok());
    ASSERT_TRUE(add(*journal, "a").ok());
  }
  EXPECT_FALSE(fs::exists(left_));
}

TEST_F(JournalTest, ARunThatDoesNotResumeStartsOver) {
  { ASSERT_TRUE(add(*Journal::open(target_, run_, true), "a").ok()); }
  const auto journal = Journal::open(target_, {{"seed", 2}}, false);
  ASSERT_TRUE(journal.ok()) << journal.status().message();
  EXPECT_EQ(journal->parts(), 0);
}

TEST_F(JournalTest, RefusesWhatWasMadeOtherwiseAndKeepsIt) {
  { ASSERT_TRUE(add(*Journal::open(target_, run_, true), "a").ok()); }
  nlohmann::json other = run_;
  other["seed"] = 2;
  other["recipe"]["scheme"] = "a scheme with a name that is too long to be shown in a message";
  const Status status = Journal::open(target_, other, true).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("seed (was 1, is 2)"), HasSubstr("recipe"), Not(HasSubstr("too long"))));
  EXPECT_TRUE(Journal::open(target_, run_, true)->has("a"));
}

TEST_F(JournalTest, RefusesATargetThatAnotherRunIsAtWorkOn) {
  const auto journal = Journal::open(target_, run_, false);
  ASSERT_TRUE(add(*journal, "a").ok());
  for (const bool resume : {false, true}) {
    const Status status = Journal::open(target_, run_, resume).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr("another run"));
  }
  Journal::clear(target_);
  EXPECT_TRUE(journal->has("a"));
}

TEST_F(JournalTest, NoticesWhateverWasDamaged) {
  const auto damage = [&](const std::string& name, bool truncates) {
    const fs::path path = left_ / name;
    std::ifstream in(path, std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(in)), {});
    if (truncates) {
      bytes.resize(bytes.size() / 2);
    } else {
      bytes[bytes.size() - 3] = static_cast<char>(bytes[bytes.size() - 3] ^ 1);
    }
    std::ofstream(path, std::ios::binary) << bytes;
  };
  for (const std::string name : {"run.json", "a/part.json", "a/model.safetensors", "a/beside.txt"}) {
    for (const bool truncates : {false, true}) {
      if (name == "run.json" && !truncates) continue;  // then it is another run
      fs::remove_all(left_);
      { ASSERT_TRUE(add(*Journal::open(target_, run_, true), "a", {{"text", "remembered"}}).ok()); }
      damage(name, truncates);
      const auto journal = Journal::open(target_, run_, true);
      const Status status = journal.ok() ? journal->read("a", nullptr).status() : journal.status();
      EXPECT_EQ(status.code(), StatusCode::kBadInput) << name << truncates;
      EXPECT_THAT(status.message(), AllOf(HasSubstr("damaged"), HasSubstr("--resume"))) << name;
    }
  }
}

}  // namespace
}  // namespace autoglm::pass
