#include "core/format/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "core/format/testing.h"

namespace autoglm::format {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class FileTest : public FolderTest {
 protected:
  size_t entries() const { return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), {})); }
};

TEST_F(FileTest, WritesAndReplacesWhole) {
  const fs::path path = folder_ / "a.json";
  const std::string contents("one\0two", 7);
  ASSERT_TRUE(write_file_atomically(path, contents).ok());
  EXPECT_EQ(*read_text_file(path), contents);
  ASSERT_TRUE(write_file_atomically(path, "").ok());
  EXPECT_EQ(*read_text_file(path), "");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FileTest, LeavesNothingWhereWritingFails) {
  EXPECT_THAT(write_file_atomically(folder_ / "none" / "a", "x").message(), HasSubstr("No such file"));
  ASSERT_TRUE(fs::create_directory(folder_ / "d"));
  EXPECT_THAT(write_file_atomically(folder_ / "d", "x").message(), HasSubstr("directory"));
  EXPECT_EQ(entries(), 1u);
}

TEST_F(FileTest, BoundsWhatItReads) {
  std::ofstream(folder_ / "a") << "12345";
  EXPECT_EQ(*read_text_file(folder_ / "a", 5), "12345");
  EXPECT_THAT(read_text_file(folder_ / "a", 4).status().message(), HasSubstr("5 B, more than the 4 B"));
  EXPECT_THAT(read_text_file(folder_ / "b").status().message(), HasSubstr("No such file"));
  EXPECT_THAT(read_text_file(folder_).status().message(), HasSubstr("not a regular file"));
  ASSERT_EQ(mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(read_text_file(folder_ / "pipe").status().message(), HasSubstr("not a regular file"));
}

}  // namespace
}  // namespace autoglm::format
