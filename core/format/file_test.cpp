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

TEST_F(FileTest, ReplacesWhole) {
  const auto path = folder_ / "a";
  for (const std::string contents : {"first", "the second", ""}) {
    ASSERT_TRUE(replace_file(path, contents).ok());
    EXPECT_EQ(*read_text_file(path), contents);
  }
  std::filesystem::create_directory(folder_ / "there");
  for (const char* impossible : {"there", "no/folder"}) {
    const Status refused = replace_file(folder_ / impossible, "x");
    EXPECT_THAT(refused.message(), HasSubstr(impossible));
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 2);  // nothing half-written is left
}

TEST_F(FileTest, KnowsAFileByItsBytes) {
  EXPECT_EQ(*sha256_of_file(write("a", "abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CancelToken cancel;
  cancel.cancel();
  EXPECT_EQ(sha256_of_file(folder_ / "a", &cancel).status().code(), StatusCode::kCancelled);
}

}  // namespace
}  // namespace autoglm::format
