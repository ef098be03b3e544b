#include "core/format/staged_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

namespace autoglm::format {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class StagedFileTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / "staged_file";
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static void put(const StagedFile& file, std::string_view text) {
    ASSERT_TRUE(write_all(file.fd(), std::as_bytes(std::span(text)), file.target()).ok());
  }
  std::string contents(const std::string& name) const { return read_text_file(folder_ / name).value(); }
  size_t entries() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }

  fs::path folder_;
};

TEST_F(StagedFileTest, AppearsWholeOrNotAtAll) {
  {
    auto file = StagedFile::create(folder_ / "out.bin", false);
    ASSERT_TRUE(file.ok()) << file.status().message();
    put(*file, "half");
    EXPECT_FALSE(fs::exists(folder_ / "out.bin"));
  }
  EXPECT_EQ(entries(), 0u);
  auto file = StagedFile::create(folder_ / "new" / "out.bin", false);
  put(*file, "whole");
  ASSERT_TRUE(file->publish().ok());
  EXPECT_EQ(contents("new/out.bin"), "whole");
  EXPECT_FALSE(fs::exists(folder_ / "new" / ".out.bin.autoglm-part"));
}

TEST_F(StagedFileTest, ReplacesOnlyWhenTold) {
  std::ofstream(folder_ / "out.bin") << "old";
  EXPECT_THAT(StagedFile::create(folder_ / "out.bin", false).status().message(), HasSubstr("--overwrite"));
  auto file = StagedFile::create(folder_ / "out.bin", true);
  put(*file, "new");
  EXPECT_EQ(contents("out.bin"), "old");
  ASSERT_TRUE(file->publish().ok());
  EXPECT_EQ(contents("out.bin"), "new");
  fs::create_directory(folder_ / "folder");
  EXPECT_THAT(StagedFile::create(folder_ / "folder", true).status().message(), HasSubstr("is no file"));
}

TEST_F(StagedFileTest, AFileThatCameUpMeanwhileStays) {
  auto file = StagedFile::create(folder_ / "out.bin", false);
  put(*file, "mine");
  std::ofstream(folder_ / "out.bin") << "theirs";
  EXPECT_EQ(file->publish().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(contents("out.bin"), "theirs");
}

TEST_F(StagedFileTest, OneWriterAtATimeAndLeftoversAreWrittenOver) {
  std::ofstream(folder_ / ".out.bin.autoglm-part") << "left by a killed process, and longer";
  auto file = StagedFile::create(folder_ / "out.bin", false);
  EXPECT_THAT(StagedFile::create(folder_ / "out.bin", false).status().message(), HasSubstr("another process"));
  put(*file, "new");
  ASSERT_TRUE(file->publish().ok());
  EXPECT_EQ(contents("out.bin"), "new");
}

}  // namespace
}  // namespace autoglm::format
