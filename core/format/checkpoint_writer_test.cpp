#include "core/format/checkpoint_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <map>

#include "core/base/memory.h"
#include "core/format/testing.h"

namespace autoglm::format {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class CheckpointWriterTest : public FolderTest {
 protected:
  CheckpointWriter writer(const WriterOptions& options = {}) const {
    auto result = CheckpointWriter::create(folder_ / "out", options);
    EXPECT_TRUE(result.ok()) << result.status().message();
    return std::move(*result);
  }
  void expect_only(const std::vector<std::string>& names) const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(folder_)) found.push_back(entry.path().filename().string());
    EXPECT_THAT(found, ::testing::UnorderedElementsAreArray(names));
  }
};

Status add(CheckpointWriter& writer, const StoredTensor& t) { return writer.add(t.name, t.dtype, t.shape, t.bytes); }

StoredTensor random_tensor(const std::string& name, DType dtype, const Shape& shape) {
  uint64_t state = std::hash<std::string>()(name);
  std::vector<uint8_t> bytes(static_cast<size_t>(*element_count(shape) * size_of(dtype)));
  for (uint8_t& b : bytes)
    b = static_cast<uint8_t>((state = state * 6364136223846793005u + 1442695040888963407u) >> 56);
  return stored(name, dtype, shape, bytes);
}

void expect_holds(const fs::path& folder, const std::vector<StoredTensor>& tensors) {
  const auto checkpoint = Checkpoint::open(folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ(checkpoint->names().size(), tensors.size());
  for (const StoredTensor& t : tensors) {
    const TensorInfo* info = checkpoint->find(t.name);
    ASSERT_NE(info, nullptr) << t.name;
    EXPECT_EQ(info->shape, t.shape);
    EXPECT_EQ(info->dtype, t.dtype);
    EXPECT_EQ(info->offset % size_of(info->dtype), 0) << t.name;  // readers view the mapped bytes as elements
    const auto bytes = *checkpoint->bytes(t.name);
    EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), t.bytes.begin(), t.bytes.end())) << t.name;
  }
}

std::vector<StoredTensor> sample_tensors() {
  std::vector<StoredTensor> tensors;
  const DType dtypes[] = {DType::kU8, DType::kBF16, DType::kF32, DType::kI64, DType::kBool};
  for (int i = 0; i < 40; ++i) {
    tensors.push_back(random_tensor(fmt::format("layer.{}.weight\"\\\n\u5c42", i), dtypes[i % 5], {i % 7, 3 + i % 4}));
  }
  tensors.push_back(random_tensor("scalar", DType::kF16, {}));
  return tensors;
}

TEST_F(CheckpointWriterTest, WritesOneFile) {
  CheckpointWriter w = writer();
  const auto tensors = sample_tensors();
  for (const StoredTensor& t : tensors) ASSERT_TRUE(add(w, t).ok());
  ASSERT_TRUE(w.write_file("config.json", "{}").ok());
  ASSERT_TRUE(w.write_file("sub/folder/a.txt", "a").ok());
  ASSERT_TRUE(w.copy_file(write("vocab", "words"), "tokenizer.model").ok());
  EXPECT_FALSE(fs::exists(folder_ / "out"));
  ASSERT_TRUE(w.finish().ok());
  expect_holds(w.staging(), tensors);
  ASSERT_TRUE(w.write_file("report.md", "good").ok());
  const Status status = w.commit();
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_FALSE(w.write_file("late", "").ok());
  expect_holds(folder_ / "out", tensors);
  EXPECT_EQ(*read_text_file(folder_ / "out/sub/folder/a.txt"), "a");
  EXPECT_EQ(*read_text_file(folder_ / "out/tokenizer.model"), "words");
  EXPECT_EQ(*read_text_file(folder_ / "out/report.md"), "good");
  expect_only({"out", "vocab"});
  // Nothing is wasted on the reserved header.
  int64_t header = 0;
  for (const StoredTensor& t : tensors) header += static_cast<int64_t>(t.name.size()) + 90;
  EXPECT_LT(static_cast<int64_t>(fs::file_size(folder_ / "out/model.safetensors")), w.tensor_bytes() + header);
}

TEST_F(CheckpointWriterTest, SplitsShardsBySize) {
  CheckpointWriter w = writer({.max_shard_bytes = 1000});
  std::vector<StoredTensor> tensors;
  for (const int size : {400, 400, 300, 5000, 8, 992, 1, 1000, 1001}) {
    tensors.push_back(random_tensor(fmt::format("t{}", tensors.size()), DType::kU8, {size}));
    ASSERT_TRUE(add(w, tensors.back()).ok());
  }
  ASSERT_TRUE(w.commit().ok());
  expect_holds(folder_ / "out", tensors);
  const auto checkpoint = Checkpoint::open(folder_ / "out");
  const auto shard = [&](int i) { return checkpoint->file_of(fmt::format("t{}", i)).filename().string(); };
  EXPECT_EQ(checkpoint->files().size(), 7u);
  EXPECT_EQ(shard(0), "model-00001-of-00007.safetensors");
  EXPECT_EQ(shard(1), shard(0));
  EXPECT_EQ(shard(3), "model-00003-of-00007.safetensors");  // larger than a shard may be: alone
  EXPECT_EQ(shard(5), shard(4));
  EXPECT_EQ(shard(8), "model-00007-of-00007.safetensors");
  const auto index = *read_text_file(folder_ / "out/model.safetensors.index.json");
  EXPECT_THAT(index, HasSubstr("\"total_size\": 9102"));
}

TEST_F(CheckpointWriterTest, StreamsATensorThatComesInPieces) {
  CheckpointWriter w = writer();
  const StoredTensor tensor = random_tensor("a", DType::kBF16, {5, 12});
  const auto in_pieces_of = [&](size_t size) {
    return [&tensor, size, done = size_t{0}]() mutable -> Result<std::span<const std::byte>> {
      const auto piece = std::span(tensor.bytes).subspan(done, std::min(size, tensor.bytes.size() - done));
      done += piece.size();
      return piece;
    };
  };
  ASSERT_TRUE(w.add_streamed("a", tensor.dtype, tensor.shape, in_pieces_of(7)).ok());
  ASSERT_TRUE(w.commit().ok());
  expect_holds(folder_ / "out", std::vector<StoredTensor>{tensor});
  for (const int64_t rows : {4, 6}) {  // less than what comes, and more
    CheckpointWriter other = CheckpointWriter::create(folder_ / "other").value();
    EXPECT_EQ(other.add_streamed("a", tensor.dtype, {rows, 12}, in_pieces_of(24)).code(), StatusCode::kInternal);
  }
}

TEST_F(CheckpointWriterTest, SplitsShardsWhenTheHeaderIsFull) {
  CheckpointWriter w = writer();
  std::vector<StoredTensor> tensors;
  for (int i = 0; i < 9000; ++i) {
    tensors.push_back(random_tensor(fmt::format("model.layers.0.a_name_of_usual_length.{}", i), DType::kF32, {1}));
    ASSERT_TRUE(add(w, tensors.back()).ok());
  }
  const std::string long_name(1 << 20, 'n');
  tensors.push_back(random_tensor(long_name, DType::kF32, {2}));
  ASSERT_TRUE(add(w, tensors.back()).ok());
  EXPECT_FALSE(w.add(std::string((1 << 20) + 1, 'n'), DType::kU8, {0}, {}).ok());
  ASSERT_TRUE(w.commit().ok());
  expect_holds(folder_ / "out", tensors);
  EXPECT_LE(Checkpoint::open(folder_ / "out")->files().size(), 5u);
}

TEST_F(CheckpointWriterTest, StreamsLargeShardsBehindAPaddedHeader) {
  CheckpointWriter w = writer();
  const std::vector<StoredTensor> tensors = {random_tensor("a", DType::kU8, {3}),
                                             random_tensor("b", DType::kF32, {17 << 20}),
                                             random_tensor("c", DType::kBF16, {5})};
  for (const StoredTensor& t : tensors) ASSERT_TRUE(add(w, t).ok());
  ASSERT_TRUE(w.commit().ok());
  expect_holds(folder_ / "out", tensors);
  EXPECT_EQ(fs::file_size(folder_ / "out/model.safetensors"), (256u << 10) + (68u << 20) + 13);
}

TEST_F(CheckpointWriterTest, LargeTensorsOfOddLengthHaveAShardOfTheirOwn) {
  CheckpointWriter w = writer();
  const std::vector<StoredTensor> tensors = {random_tensor("a", DType::kU8, {3}), random_tensor("b", DType::kU8, {8}),
                                             random_tensor("c", DType::kBF16, {(32 << 20) + 1}),
                                             random_tensor("d", DType::kF32, {1})};
  for (const StoredTensor& t : tensors) ASSERT_TRUE(add(w, t).ok());
  ASSERT_TRUE(w.commit().ok());
  expect_holds(folder_ / "out", tensors);
  const auto checkpoint = Checkpoint::open(folder_ / "out");
  EXPECT_EQ(checkpoint->names(), (std::vector<std::string>{"b", "a", "c", "d"}));
  EXPECT_EQ(checkpoint->files().size(), 3u);
  EXPECT_EQ(checkpoint->file_of("c").filename(), "model-00002-of-00003.safetensors");
}

TEST_F(CheckpointWriterTest, CopiesTensorsWithoutKeepingTheirPages) {
  constexpr int64_t kBytes = 96 << 20;
  {
    CheckpointWriter w = writer();
    ASSERT_TRUE(w.add("x", DType::kU8, {kBytes}, std::vector<std::byte>(kBytes, std::byte{7})).ok());
    ASSERT_TRUE(w.commit().ok());
  }
  const auto source = Checkpoint::open(folder_ / "out");
  ASSERT_TRUE(source.ok());
  auto copy = CheckpointWriter::create(folder_ / "copy");
  ASSERT_TRUE(copy.ok());
  const int64_t before = current_rss_bytes();
  ASSERT_TRUE(copy->add("y", *source, "x").ok());
  EXPECT_LT(current_rss_bytes() - before, 24 << 20);
  EXPECT_THAT(copy->add("z", *source, "none").message(), HasSubstr("no tensor 'none'"));
  ASSERT_TRUE(copy->commit().ok());
  const auto read = Checkpoint::open(folder_ / "copy");
  const auto bytes = *read->bytes("y");
  EXPECT_TRUE(std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{7}; }));
}

TEST_F(CheckpointWriterTest, CopiesRows) {
  write("model.safetensors", safetensors_bytes({stored<int32_t>("x", DType::kI32, {3, 2}, {1, 2, 3, 4, 5, 6})}));
  const auto source = Checkpoint::open(folder_);
  ASSERT_TRUE(source.ok()) << source.status().message();
  {
    CheckpointWriter w = writer();
    ASSERT_TRUE(w.add("y", *source, "x", {.first_row = 1, .rows = 2}).ok());
    EXPECT_THAT(w.add("z", *source, "x", {.first_row = 2, .rows = 2}).message(), HasSubstr("2 rows from row 2 on"));
    ASSERT_TRUE(w.commit().ok());
  }
  expect_holds(folder_ / "out", {stored<int32_t>("y", DType::kI32, {2, 2}, {3, 4, 5, 6})});
}

TEST_F(CheckpointWriterTest, NamesTheElementThatIsNotFinite) {
  constexpr int64_t kRows = 5'000'000;  // two pieces
  std::vector<uint16_t> values(kRows * 2, 0x3F80);
  values[9'000'001] = 0x7FC0;  // NaN
  write("model.safetensors", safetensors_bytes({stored("x", DType::kBF16, {kRows, 2}, values)}));
  const auto source = Checkpoint::open(folder_);
  ASSERT_TRUE(source.ok()) << source.status().message();
  {
    CheckpointWriter w = writer();
    EXPECT_TRUE(w.add("a", *source, "x").ok());  // carried over whatever it is
    EXPECT_TRUE(w.add("b", *source, "x", {.rows = 4'500'000, .finite = true}).ok());
    const Status status = w.add("c", *source, "x", {.first_row = 10, .rows = kRows - 10, .finite = true});
    EXPECT_EQ(status.code(), StatusCode::kBadInput);
    EXPECT_THAT(status.message(), HasSubstr("model.safetensors: tensor 'x': element 9000001 is NaN or infinite"));
  }
  expect_only({"model.safetensors"});
}

TEST_F(CheckpointWriterTest, StopsBetweenPieces) {
  write("model.safetensors", safetensors_bytes({stored("x", DType::kU8, {24 << 20}, std::vector<uint8_t>(24 << 20))}));
  const auto source = Checkpoint::open(folder_);
  ASSERT_TRUE(source.ok()) << source.status().message();
  CancelToken cancel;
  {
    CheckpointWriter w = writer({.cancel = &cancel});
    ASSERT_TRUE(w.add("a", *source, "x").ok());
    cancel.cancel();
    EXPECT_EQ(w.add("b", *source, "x").code(), StatusCode::kCancelled);
    EXPECT_EQ(w.commit().code(), StatusCode::kCancelled);
  }
  {
    CheckpointWriter w = writer({.cancel = &cancel});
    EXPECT_EQ(w.add("c", DType::kU8, {4}, std::vector<std::byte>(4)).code(), StatusCode::kCancelled);
  }
  {
    CheckpointWriter w = writer({.cancel = &cancel});
    EXPECT_EQ(w.copy_file(folder_ / "model.safetensors", "copy").code(), StatusCode::kCancelled);
  }
  expect_only({"model.safetensors"});
}

TEST_F(CheckpointWriterTest, GivesTheSameBytesEveryTime) {
  std::string first;
  for (int round = 0; round < 2; ++round) {
    CheckpointWriter w = writer({.max_shard_bytes = 300, .overwrite = true});
    for (const StoredTensor& t : sample_tensors()) ASSERT_TRUE(add(w, t).ok());
    ASSERT_TRUE(w.write_file("config.json", "{}").ok());
    ASSERT_TRUE(w.commit().ok());
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::directory_iterator(folder_ / "out")) {
      files[entry.path().filename().string()] = *read_text_file(entry.path());
    }
    std::string all;
    for (const auto& [name, text] : files) all += name + text;
    if (round == 0) first = all;
    EXPECT_EQ(all, first);
  }
}

TEST_F(CheckpointWriterTest, RefusesBadTensorsAndNames) {
  CheckpointWriter w = writer();
  const std::vector<std::byte> four(4);
  ASSERT_TRUE(w.add("a", DType::kF32, {1}, four).ok());
  EXPECT_THAT(w.add("a", DType::kF32, {1}, four).message(), HasSubstr("'a'"));
  EXPECT_FALSE(w.add("", DType::kF32, {1}, four).ok());
  EXPECT_FALSE(w.add("__metadata__", DType::kF32, {1}, four).ok());
  EXPECT_FALSE(w.add("\xff", DType::kF32, {1}, four).ok());
  EXPECT_THAT(w.add("b", DType::kF32, {2}, four).message(), HasSubstr("F32 [2] comes with 4 bytes"));
  EXPECT_FALSE(w.add("b", DType::kF32, {-1}, four).ok());
  EXPECT_FALSE(w.add("b", DType::kF32, {int64_t{1} << 62, 4}, four).ok());
  for (const char* name : {"", "/etc/passwd", "../x", "a/../../x", "a/", ".", "./x"}) {
    EXPECT_EQ(w.write_file(name, "x").code(), StatusCode::kInvalidArgument) << name;
  }
  EXPECT_THAT(w.copy_file(folder_ / "none", "x").message(), HasSubstr("No such file"));
  ASSERT_TRUE(w.add("b", DType::kF32, {1}, four).ok());  // a refused call leaves the writer usable
  ASSERT_TRUE(w.commit().ok());
  auto empty = CheckpointWriter::create(folder_ / "empty");
  ASSERT_TRUE(empty.ok());
  EXPECT_THAT(empty->commit().message(), HasSubstr("no tensor was written"));
}

TEST_F(CheckpointWriterTest, SaysWhatTheDiskLacks) {
  auto refused = CheckpointWriter::create(folder_ / "out", {.expected_bytes = int64_t{1} << 60});
  EXPECT_EQ(refused.status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.status().message(), HasSubstr("needs 1153 PB, but the disk has only"));
  expect_only({});
}

// The size limit of a process stands in for a full disk: the same error path, no privileges needed.
TEST_F(CheckpointWriterTest, FullDiskIsOneLineAndLeavesNothing) {
  std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit old = {};
  getrlimit(RLIMIT_FSIZE, &old);
  const struct rlimit small = {1 << 20, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  std::string message;
  {
    CheckpointWriter w = writer();
    ASSERT_TRUE(w.add("a", DType::kU8, {512}, std::vector<std::byte>(512)).ok());
    const Status status = w.add("b", DType::kU8, {4 << 20}, std::vector<std::byte>(4 << 20));
    EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
    message = status.message();
    EXPECT_EQ(w.commit().message(), message);  // stays failed
  }
  setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_THAT(message, HasSubstr((folder_ / "out").string() +
                                 ": cannot write: File too large; tensor 'b' needs 4.19 MB after 512 B"));
  EXPECT_THAT(message, HasSubstr("are free; make room"));
  EXPECT_EQ(message.find('\n'), std::string::npos);
  expect_only({});
}

}  // namespace
}  // namespace autoglm::format
