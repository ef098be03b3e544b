#include "core/format/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "core/format/testing.h"

namespace autoglm::format {
namespace {

using ::testing::HasSubstr;

using FileTest = FolderTest;

TEST_F(FileTest, ReadsWhole) {
  const std::string contents("one\0two", 7);
  EXPECT_EQ(*read_text_file(write("a", contents)), contents);
  EXPECT_EQ(*read_text_file(write("a", "")), "");
}

TEST_F(FileTest, BoundsWhatItReads) {
  write("a", "12345");
  EXPECT_EQ(*read_text_file(folder_ / "a", 5), "12345");
  EXPECT_THAT(read_text_file(folder_ / "a", 4).status().message(), HasSubstr("5 B, more than the 4 B"));
  EXPECT_THAT(read_text_file(folder_ / "b").status().message(), HasSubstr("No such file"));
  EXPECT_THAT(read_text_file(folder_).status().message(), HasSubstr("not a regular file"));
  ASSERT_EQ(mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(read_text_file(folder_ / "pipe").status().message(), HasSubstr("not a regular file"));
}

}  // namespace
}  // namespace autoglm::format
