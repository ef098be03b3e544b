#include "core/format/shard_writer.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/base/memory.h"
#include "core/format/testing.h"

namespace autoglm::format {
namespace {

using ShardWriterTest = FolderTest;

TEST_F(ShardWriterTest, StreamsALargeTensorOfOddLength) {
  constexpr int64_t kBytes = (96 << 20) + 3;
  ASSERT_TRUE(ShardWriter::needs_own_shard(kBytes));
  EXPECT_FALSE(ShardWriter::needs_own_shard(96 << 20));
  EXPECT_FALSE(ShardWriter::needs_own_shard((64 << 20) - 1));

  const std::vector<std::byte> buffer(1 << 20, std::byte{7});
  const int64_t before = current_rss_bytes();
  int64_t left = kBytes, most = 0;
  const auto source = [&] {
    most = std::max(most, current_rss_bytes());
    const auto piece = std::span(buffer).first(static_cast<size_t>(std::min<int64_t>(left, 1 << 20)));
    left -= static_cast<int64_t>(piece.size());
    return piece;
  };
  auto shard = ShardWriter::create(folder_ / "a", folder_ / "a", 1024);
  ASSERT_TRUE(shard.ok()) << shard.status().message();
  ASSERT_TRUE(shard->add({.name = "x", .dtype = DType::kU8, .shape = {kBytes}, .nbytes = kBytes}, source).ok());
  EXPECT_LT(most - before, 24 << 20);
  EXPECT_EQ(shard->deferred_bytes(), 0);
  EXPECT_EQ(shard->data_bytes(), kBytes);
  ASSERT_TRUE(shard->finish().ok());

  const auto file = SafetensorsFile::open(folder_ / "a");
  ASSERT_TRUE(file.ok()) << file.status().message();
  const auto bytes = file->bytes(*file->find("x"));
  EXPECT_EQ(static_cast<int64_t>(bytes.size()), kBytes);
  EXPECT_TRUE(std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{7}; }));
}

}  // namespace
}  // namespace autoglm::format
