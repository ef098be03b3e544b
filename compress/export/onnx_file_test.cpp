#include "compress/export/onnx_file.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <onnx.pb.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

namespace autoglm::exports {
namespace {

namespace fs = std::filesystem;

class OnnxFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "autoglm-onnx-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(std::vector<OnnxTensor> tensors, const std::function<Status(OnnxFile&)>& fill) const {
    auto folder = format::FolderWriter::create(folder_ / "out");
    ASSERT_TRUE(folder.ok());
    onnx::ModelProto model;
    model.set_producer_name("test");
    model.mutable_graph()->set_name("graph");
    const Status status = OnnxFile::write(*folder, model, std::move(tensors), fill);
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_TRUE(folder->commit().ok());
  }

  onnx::ModelProto read() const {
    std::ifstream file(folder_ / "out" / "model.onnx", std::ios::binary);
    onnx::ModelProto model;
    EXPECT_TRUE(model.ParseFromString({std::istreambuf_iterator<char>(file), {}}));
    return model;
  }

  fs::path folder_;
};

OnnxTensor matrix(int bits, bool transposed, int offset, int64_t rows, int64_t cols, int64_t stride) {
  OnnxTensor tensor{.name = "m",
                    .type = onnx::TensorProto::UINT8,
                    .rows = rows,
                    .cols = cols,
                    .stride = stride,
                    .bits = bits,
                    .transposed = transposed,
                    .offset = offset};
  tensor.shape = {tensor.bytes()};
  return tensor;
}

struct Placing {
  bool transposed;
  int64_t rows, cols, stride;
};
/// On their side, apart, adjoining; small ones, and such that each piece is written in several batches. Three elements
/// of few bits end within a byte.
constexpr Placing kPlacings[] = {{true, 24, 40, 1},      {false, 24, 40, 48},     {false, 24, 40, 40},
                                 {true, 96, 5000, 1},    {false, 3000, 200, 208}, {false, 3000, 200, 200},
                                 {false, 120'000, 3, 4}, {false, 120'000, 3, 3},  {false, 240'000, 1, 1}};

/// Writes the rows in three pieces, not in order, and reads them back at once.
Status write_and_read(OnnxFile& file, std::span<const std::byte> values, int64_t rows, std::span<std::byte> back) {
  const int64_t third = rows / 3;
  const size_t bytes = values.size() / 3;
  for (const int64_t piece : {1, 0, 2}) {
    AUTOGLM_RETURN_IF_ERROR(
        file.write_rows(0, piece * third, third, values.subspan(static_cast<size_t>(piece) * bytes, bytes)));
  }
  return file.read_rows(0, 0, rows, back);
}

TEST_F(OnnxFileTest, RowsOfEveryLayoutComeBackPieceByPiece) {
  std::mt19937 random(3);
  for (const int bits : {2, 4, 8}) {
    for (const Placing& at : kPlacings) {
      for (const int offset : {0, 1 << (bits - 1)}) {
        std::vector<int8_t> values(static_cast<size_t>(at.rows * at.cols)), back(values.size());
        for (int8_t& value : values) {
          value = static_cast<int8_t>(static_cast<int>(random() % (1U << bits)) - (1 << (bits - 1)));
        }
        write({matrix(bits, at.transposed, offset, at.rows, at.cols, at.stride)}, [&](OnnxFile& file) {
          return write_and_read(file, std::as_bytes(std::span(values)), at.rows,
                                std::as_writable_bytes(std::span(back)));
        });
        EXPECT_EQ(back, values) << fmt::format("{} bits, {} {}x{} by {}", bits, at.transposed ? "turned" : "", at.rows,
                                               at.cols, at.stride);
        fs::remove_all(folder_ / "out");
      }
    }
  }
}

TEST_F(OnnxFileTest, WideElementsComeBackToo) {
  std::mt19937 random(4);
  for (const int bits : {16, 32, 64}) {
    for (const Placing& at : kPlacings) {
      std::vector<std::byte> values(static_cast<size_t>(at.rows * at.cols * bits / 8)), back(values.size());
      for (std::byte& value : values) value = static_cast<std::byte>(random());
      write({matrix(bits, at.transposed, 0, at.rows, at.cols, at.stride)},
            [&](OnnxFile& file) { return write_and_read(file, values, at.rows, back); });
      EXPECT_EQ(back, values) << fmt::format("{} bits, {} {}x{} by {}", bits, at.transposed ? "turned" : "", at.rows,
                                             at.cols, at.stride);
      fs::remove_all(folder_ / "out");
    }
  }
}

/// Byte by byte: low bits first, on its side, unsigned where it is moved.
TEST_F(OnnxFileTest, BytesAreWhatOnnxSays) {
  const std::vector<int8_t> values = {-8, -1, 0, 7, 1, 2, -3, 4};  // [2, 4]
  std::vector<OnnxTensor> tensors = {matrix(4, false, 0, 2, 4, 4), matrix(4, false, 8, 2, 4, 4),
                                     matrix(4, true, 0, 2, 4, 1)};
  write(tensors, [&](OnnxFile& file) -> Status {
    for (size_t i = 0; i < 3; ++i) AUTOGLM_RETURN_IF_ERROR(file.write_rows(i, 0, 2, std::as_bytes(std::span(values))));
    return ok_status();
  });
  const onnx::ModelProto model = read();
  EXPECT_EQ(model.producer_name(), "test");
  ASSERT_EQ(model.graph().initializer_size(), 3);
  EXPECT_EQ(model.graph().initializer(0).raw_data(), "\xF8\x70\x21\x4D");
  EXPECT_EQ(model.graph().initializer(1).raw_data(), std::string("\x70\xF8\xA9\xC5"));
  EXPECT_EQ(model.graph().initializer(2).raw_data(), std::string("\x18\x2F\xD0\x47"));
}

TEST_F(OnnxFileTest, LargeTensorsLieBesideTheModel) {
  const int64_t rows = (int64_t{1} << 20) + 64, cols = 1024;
  OnnxTensor small{.name = "small", .type = onnx::TensorProto::FLOAT, .shape = {3}, .rows = 3, .bits = 32};
  OnnxTensor large = matrix(8, false, 0, rows, cols, cols);
  large.name = "large";
  const std::vector<float> three = {1, 2, 3};
  std::vector<std::byte> last(static_cast<size_t>(cols), std::byte{7}), back(last.size());
  write({small, large}, [&](OnnxFile& file) -> Status {
    EXPECT_TRUE(file.is_external());
    AUTOGLM_RETURN_IF_ERROR(file.write_rows(0, 0, 3, std::as_bytes(std::span(three))));
    AUTOGLM_RETURN_IF_ERROR(file.write_rows(1, rows - 1, 1, last));
    return file.read_rows(1, rows - 1, 1, back);
  });
  EXPECT_EQ(back, last);
  const onnx::ModelProto model = read();
  EXPECT_LT(fs::file_size(folder_ / "out" / "model.onnx"), 1000U);
  int64_t end = 0;
  for (const onnx::TensorProto& tensor : model.graph().initializer()) {
    EXPECT_EQ(tensor.data_location(), onnx::TensorProto::EXTERNAL);
    ASSERT_EQ(tensor.external_data_size(), 3);
    EXPECT_EQ(tensor.external_data(0).value(), "model.onnx.data");
    const int64_t offset = std::stoll(tensor.external_data(1).value());
    EXPECT_EQ(offset % 4096, 0);
    EXPECT_GE(offset, end);
    end = offset + std::stoll(tensor.external_data(2).value());
  }
  EXPECT_EQ(static_cast<int64_t>(fs::file_size(folder_ / "out" / "model.onnx.data")), end);
}

}  // namespace
}  // namespace autoglm::exports
