#include "core/format/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/log.h"
#include "core/format/testing.h"

namespace autoglm::format {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

/// A safetensors file of U8 [2] tensors.
std::string shard_of(const std::vector<std::string>& names) {
  std::vector<StoredTensor> tensors;
  for (const std::string& name : names) tensors.push_back(stored<uint8_t>(name, DType::kU8, {2}, {5, 5}));
  return safetensors_bytes(tensors);
}

class CheckpointTest : public FolderTest {
 protected:
  void write_index(const std::string& map) {
    write("model.safetensors.index.json", "{\"metadata\":{},\"weight_map\":{" + map + "}}");
  }
  std::string refusal() {
    const auto checkpoint = Checkpoint::open(folder_);
    EXPECT_FALSE(checkpoint.ok());
    EXPECT_EQ(checkpoint.status().code(), StatusCode::kBadInput);
    EXPECT_EQ(checkpoint.status().message().find('\n'), std::string::npos);
    return checkpoint.status().message();
  }
};

TEST_F(CheckpointTest, ReadsASingleFile) {
  write("model.safetensors", shard_of({"b", "a"}));
  const auto checkpoint = Checkpoint::open(folder_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ(checkpoint->names(), (std::vector<std::string>{"b", "a"}));
  EXPECT_EQ(checkpoint->total_bytes(), 4);
  EXPECT_EQ(checkpoint->find("c"), nullptr);
  EXPECT_EQ(checkpoint->bytes("a")->size(), 2u);
  EXPECT_THAT(checkpoint->bytes("c").status().message(), HasSubstr("has no tensor 'c'"));
  EXPECT_EQ(checkpoint->file_of("a"), folder_ / "model.safetensors");
  EXPECT_EQ(checkpoint->file_of("c"), folder_);
  checkpoint->release("a");
  checkpoint->release("c");
}

TEST_F(CheckpointTest, DescribesWhatIsNotThere) {
  EXPECT_FALSE(Checkpoint::is_in(folder_));
  EXPECT_FALSE(Checkpoint::is_in(folder_ / "none"));
  const Checkpoint checkpoint = Checkpoint::describe(folder_, {{.name = "b", .dtype = DType::kBF16, .shape = {2, 3}},
                                                               {.name = "a", .dtype = DType::kF32, .shape = {}}});
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"b", "a"}));
  EXPECT_EQ(checkpoint.total_bytes(), 16);
  EXPECT_EQ(checkpoint.find("b")->nbytes, 12);
  EXPECT_TRUE(checkpoint.files().empty());
  EXPECT_EQ(checkpoint.file_of("b"), folder_);
  checkpoint.release("b");
  EXPECT_THAT(checkpoint.bytes("b").status().message(), HasSubstr("has no weights, config.json alone"));
  EXPECT_THAT(checkpoint.bytes("c").status().message(), HasSubstr("has no tensor 'c'"));
  write("model.safetensors", shard_of({"a"}));
  EXPECT_TRUE(Checkpoint::is_in(folder_));
}

TEST_F(CheckpointTest, ReadsShards) {
  write("m-2.safetensors", shard_of({"c"}));
  write("m-1.safetensors", shard_of({"b", "a"}));
  write_index(R"("a":"m-1.safetensors","b":"m-1.safetensors","c":"m-2.safetensors")");
  auto opened = Checkpoint::open(folder_);
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const Checkpoint checkpoint = std::move(*opened);  // names stay valid after a move
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"b", "a", "c"}));
  EXPECT_EQ(checkpoint.file_of("c"), folder_ / "m-2.safetensors");
  EXPECT_EQ((*checkpoint.bytes("c"))[1], std::byte{5});
  EXPECT_EQ(checkpoint.files().size(), 2u);
}

TEST_F(CheckpointTest, PrefersTheSingleFileToAnIndex) {
  write("model.safetensors", shard_of({"a"}));
  write("m-1.safetensors", shard_of({"a", "b"}));
  write_index(R"("a":"m-1.safetensors","b":"m-1.safetensors","c":"missing.safetensors")");
  const auto checkpoint = Checkpoint::open(folder_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ(checkpoint->names(), std::vector<std::string>{"a"});
  EXPECT_EQ(checkpoint->file_of("a"), folder_ / "model.safetensors");
}

TEST_F(CheckpointTest, ReadsTheFamiliesOfTheTestData) {
  int folders = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(AUTOGLM_SOURCE_DIR) / "tests/data/tiny")) {
    const auto checkpoint = Checkpoint::open(entry.path());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
    EXPECT_GT(checkpoint->names().size(), 20u);
    ++folders;
  }
  EXPECT_GE(folders, 8);
}

TEST_F(CheckpointTest, KeepsTensorsThatTheIndexDoesNotName) {
  write("m.safetensors", shard_of({"a", "extra"}));
  write_index(R"("a":"m.safetensors")");
  const auto checkpoint = Checkpoint::open(folder_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_NE(checkpoint->find("extra"), nullptr);
  EXPECT_THAT(warnings().back(), HasSubstr("the first is 'extra'"));
}

TEST_F(CheckpointTest, RefusesWhatIsNoModelFolder) {
  EXPECT_THAT(Checkpoint::open(folder_ / "none").status().message(), HasSubstr("no such folder"));
  EXPECT_THAT(refusal(), HasSubstr("not a model folder"));
  write("pytorch_model.bin", "x");
  EXPECT_THAT(refusal(), HasSubstr("only safetensors is read; convert"));
  EXPECT_THAT(Checkpoint::open(folder_ / "pytorch_model.bin").status().message(), HasSubstr("not a folder"));
  write("model.safetensors", shard_of({}));
  EXPECT_THAT(refusal(), HasSubstr("no tensor"));
}

TEST_F(CheckpointTest, RefusesBadIndexes) {
  const auto with_index = [&](std::string_view text) {
    write("model.safetensors.index.json", text);
    return refusal();
  };
  EXPECT_THAT(with_index(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(with_index("[]"), HasSubstr("no object weight_map"));
  EXPECT_THAT(with_index("{}"), HasSubstr("no object weight_map"));
  EXPECT_THAT(with_index(R"({"weight_map":[]})"), HasSubstr("no object weight_map"));
  EXPECT_THAT(with_index(R"({"weight_map":{}})"), HasSubstr("names no tensor"));
  EXPECT_THAT(with_index(R"({"weight_map":{"a":1}})"), HasSubstr("tensor 'a' is no string"));
  EXPECT_THAT(with_index(R"({"weight_map":{"a":"m","a":"n"}})"), HasSubstr("'a' occurs twice"));
  EXPECT_THAT(with_index(R"({"weight_map":)" + std::string(1 << 20, '[')), HasSubstr("nested deeper"));
  for (const char* name : {"../m.safetensors", "/etc/passwd", "sub/m.safetensors", "", ".", "..", R"(m\u0000)"}) {
    EXPECT_THAT(with_index(std::string(R"({"weight_map":{"a":")") + name + R"("}})"),
                HasSubstr("not the name of a file"))
        << name;
  }
}

TEST_F(CheckpointTest, RefusesShardsThatContradictTheIndex) {
  write_index(R"("a":"m-1.safetensors")");
  EXPECT_THAT(refusal(), HasSubstr("shard 'm-1.safetensors' is missing"));
  write("m-1.safetensors", shard_of({"b"}));
  EXPECT_THAT(refusal(), HasSubstr("tensor 'a' is not in 'm-1.safetensors'"));
  write("m-1.safetensors", shard_of({"a"}));
  write("m-2.safetensors", shard_of({"a", "b"}));
  write_index(R"("a":"m-1.safetensors","b":"m-2.safetensors")");
  EXPECT_THAT(refusal(), HasSubstr("m-2.safetensors: tensor 'a' is in 'm-1.safetensors' too"));
  write("m-2.safetensors", shard_of({"b"}));
  write_index(R"("a":"m-2.safetensors","b":"m-2.safetensors","c":"m-1.safetensors")");
  EXPECT_THAT(refusal(), HasSubstr("but in 'm-1.safetensors'"));
  write("m-2.safetensors", shard_of({"b"}).substr(0, 20));
  EXPECT_THAT(refusal(), HasSubstr("m-2.safetensors: the header has"));
}

}  // namespace
}  // namespace autoglm::format
