#include "core/format/rewrite.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <vector>

#include "core/format/checkpoint_writer.h"

namespace autoglm::format {
namespace {

using ::testing::HasSubstr;

std::vector<std::byte> bytes_of(const std::vector<float>& values) {
  std::vector<std::byte> out(values.size() * sizeof(float));
  std::memcpy(out.data(), values.data(), out.size());
  return out;
}

TEST(Rewrite, ReplacesOneTensorAndNothingElse) {
  std::string pattern = (std::filesystem::temp_directory_path() / "autoglm-rewrite-XXXXXX").string();
  const std::filesystem::path folder = mkdtemp(pattern.data());
  {
    CheckpointWriter writer = CheckpointWriter::create(folder / "model").value();
    ASSERT_TRUE(writer.write_file("config.json", "{}").ok());
    for (const char* name : {"a", "b", "c"}) {
      ASSERT_TRUE(writer.add(name, DType::kF32, {3}, bytes_of({1, 2, 3})).ok());
    }
    ASSERT_TRUE(writer.commit().ok());
  }
  auto opened = Checkpoint::open(folder / "model");
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const Checkpoint before = std::move(opened).value();
  ASSERT_TRUE(rewrite_tensor(before, "b", bytes_of({7, 8, 9})).ok());
  EXPECT_THAT(rewrite_tensor(before, "b", bytes_of({7})).message(), HasSubstr("tensor 'b' has no 4 bytes"));
  EXPECT_EQ(rewrite_tensor(before, "d", bytes_of({7})).code(), StatusCode::kInvalidArgument);

  const Checkpoint after = Checkpoint::open(folder / "model").value();
  for (const char* name : {"a", "b", "c"}) {
    const auto expected =
        bytes_of(name == std::string("b") ? std::vector<float>{7, 8, 9} : std::vector<float>{1, 2, 3});
    const auto stored = after.bytes(name).value();
    EXPECT_TRUE(std::equal(stored.begin(), stored.end(), expected.begin(), expected.end())) << name;
  }
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace autoglm::format
