#include "compress/tensor/bridge.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <fstream>
#include <limits>
#include <stdexcept>

#include "core/base/memory.h"
#include "core/format/testing.h"

namespace autoglm::tensor {
namespace {

using format::DType;
using testing::HasSubstr;

constexpr DType kAllTypes[] = {DType::kBool, DType::kU8,  DType::kI8,  DType::kF8E4M3, DType::kF8E5M2, DType::kF8E8M0,
                               DType::kU16,  DType::kI16, DType::kF16, DType::kBF16,   DType::kU32,    DType::kI32,
                               DType::kF32,  DType::kU64, DType::kI64, DType::kF64,    DType::kC64};

class BridgeTest : public format::FolderTest {
 protected:
  format::Checkpoint checkpoint(const std::vector<format::StoredTensor>& tensors) const {
    write("model.safetensors", format::safetensors_bytes(tensors));
    return format::Checkpoint::open(folder_).value();
  }
};

TEST(Bridge, TypesMapBothWays) {
  for (const DType dtype : kAllTypes) {
    EXPECT_EQ(from_torch(to_torch(dtype)).value(), dtype);
    EXPECT_EQ(static_cast<int64_t>(c10::elementSize(to_torch(dtype))), format::size_of(dtype));
  }
  EXPECT_EQ(from_torch(at::kComplexDouble).status().code(), StatusCode::kBadInput);
}

TEST_F(BridgeTest, LoadsEveryTypeUnchanged) {
  for (const DType dtype : kAllTypes) {
    std::vector<uint8_t> bytes(static_cast<size_t>(6 * format::size_of(dtype)));
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(dtype == DType::kBool ? i % 2 : 40 + i);
    const auto file = checkpoint({format::stored("x", dtype, {2, 3}, bytes)});
    const at::Tensor x = load(file, "x", to_torch(dtype)).value();
    EXPECT_EQ(x.sizes(), at::IntArrayRef({2, 3}));
    EXPECT_EQ(std::memcmp(bytes_of(x).data(), bytes.data(), bytes.size()), 0) << to_string(dtype);
    EXPECT_EQ(bytes_of(x).size(), bytes.size());
  }
}

TEST_F(BridgeTest, ConvertsFromAnyAlignment) {
  // One byte before the floats puts them at an odd address of the map.
  const auto file = checkpoint({format::stored<int8_t>("odd", DType::kI8, {1}, {7}),
                                format::stored<float>("x", DType::kF32, {4}, {1.0F, -2.5F, 3.25F, 0.1F})});
  EXPECT_TRUE(load(file, "x", at::kFloat).value().equal(at::tensor({1.0F, -2.5F, 3.25F, 0.1F})));
  EXPECT_TRUE(load(file, "x", at::kBFloat16).value().equal(at::tensor({1.0F, -2.5F, 3.25F, 0.1F}).to(at::kBFloat16)));
  EXPECT_TRUE(load(file, "odd", at::kLong).value().equal(at::tensor({7}, at::kLong)));
}

TEST_F(BridgeTest, LoadsLargeTensorsInPiecesAndReleasesTheirPages) {
  std::vector<uint16_t> values(24 << 20);  // 48 MB of bfloat16
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint16_t>(0x3f80 + i % 97);
  const auto file = checkpoint({format::stored("x", DType::kBF16, {48, 1 << 19}, values)});
  const at::Tensor expected = at::from_blob(values.data(), {48, 1 << 19}, at::kBFloat16);
  const int64_t before = current_rss_bytes();
  const at::Tensor x = load(file, "x", at::kBFloat16).value();
  EXPECT_LT(current_rss_bytes() - before, (48 + 16) << 20);
  EXPECT_TRUE(x.equal(expected));
  const at::Tensor rows = load_rows(file, "x", 17, 30, at::kFloat).value();
  EXPECT_TRUE(rows.equal(expected.narrow(0, 17, 30).to(at::kFloat)));
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{-1, 2}, {47, 2}, {0, -1}, {49, 0}, {1, INT64_MAX}}) {
    EXPECT_EQ(load_rows(file, "x", first, count, at::kFloat).status().code(), StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(load_rows(file, "x", 48, 0, at::kFloat).value().numel(), 0);
}

TEST_F(BridgeTest, NamesFileTensorAndElementOfABadValue) {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  const auto file = checkpoint({format::stored<float>("a", DType::kF32, {2, 2}, {1, 2, 3, nan}),
                                format::stored<float>("b", DType::kF32, {3}, {1, infinity, 2}),
                                format::stored<float>("c", DType::kF32, {3}, {1, 2, 7e4F}),
                                format::stored<uint8_t>("d", DType::kF8E4M3, {2}, {0x10, 0x7f})});
  const auto message = [&](const char* name, at::ScalarType type) {
    const Status status = load(file, name, type).status();
    EXPECT_EQ(status.code(), StatusCode::kBadInput);
    return status.message();
  };
  EXPECT_THAT(message("a", at::kFloat), HasSubstr("model.safetensors: tensor 'a': element 3 is NaN"));
  EXPECT_THAT(message("a", at::kBFloat16), HasSubstr("element 3 is NaN"));
  EXPECT_THAT(message("b", at::kFloat), HasSubstr("element 1 is infinite"));
  EXPECT_THAT(message("c", at::kHalf), HasSubstr("element 2 is 70000, beyond the range of Half"));
  EXPECT_THAT(message("d", at::kFloat8_e4m3fn), HasSubstr("element 1 is NaN"));
  EXPECT_THAT(message("absent", at::kFloat), HasSubstr("absent"));
  EXPECT_TRUE(load(file, "c", at::kFloat).ok());
  EXPECT_THAT(load_rows(file, "a", 1, 1, at::kFloat).status().message(), HasSubstr("element 3 is NaN"));
}

TEST(Bridge, DequantizesEveryStrategyAsFormatDoes) {
  for (const auto strategy : {format::Strategy::kTensor, format::Strategy::kChannel, format::Strategy::kGroup}) {
    for (const bool symmetric : {true, false}) {
      format::QuantizedWeight weight;
      weight.args = {.num_bits = 4, .symmetric = symmetric, .strategy = strategy};
      if (strategy == format::Strategy::kGroup) weight.args.group_size = 512;
      weight.rows = 1100;  // several pieces
      weight.cols = 2048;
      const auto count = static_cast<size_t>(weight.rows * weight.cols);
      const size_t scales =
          strategy == format::Strategy::kTensor ? 1 : static_cast<size_t>(weight.rows * weight.args.groups(2048));
      for (size_t i = 0; i < count; ++i)
        weight.values.push_back(static_cast<int8_t>(static_cast<int>(i * 2654435761U >> 7 & 15) - 8));
      for (size_t i = 0; i < scales; ++i) weight.scales.push_back(0.01F * static_cast<float>(1 + i % 13));
      for (size_t i = 0; i < scales && !symmetric; ++i) weight.zero_points.push_back(static_cast<int8_t>(i % 16) - 8);
      const at::Tensor expected = at::empty({weight.rows, weight.cols});
      format::dequantize(weight, {expected.data_ptr<float>(), count});
      EXPECT_TRUE(dequantize(weight, at::kFloat).equal(expected));
      EXPECT_TRUE(dequantize(weight, at::kBFloat16).equal(expected.to(at::kBFloat16)));
    }
  }
}

TEST(Bridge, TurnsExceptionsIntoOneLine) {
  const Status torch_error = guarded([]() -> Status {
    at::ones({2, 3}).matmul(at::ones({4, 5}));
    return ok_status();
  });
  EXPECT_EQ(torch_error.code(), StatusCode::kInternal);
  EXPECT_EQ(torch_error.message().find('\n'), std::string::npos);
  EXPECT_EQ(guarded([]() -> Result<int> { throw std::runtime_error("odd"); }).status().message(), "odd");
  EXPECT_EQ(guarded([]() -> Status { throw std::bad_alloc(); }).code(), StatusCode::kResourceExhausted);
  const Status memory = guarded([]() -> Status {
    at::empty({int64_t{1} << 50});
    return ok_status();
  });
  EXPECT_EQ(memory.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(memory.message(), HasSubstr("out of memory: can't allocate"));
  EXPECT_TRUE(guarded([] { return ok_status(); }).ok());
}

TEST(Bridge, KnowsTheDevices) {
  EXPECT_TRUE(check_device(at::kCPU).ok());
  EXPECT_EQ(check_device(at::kMeta).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(check_device(at::kCUDA).ok(), at::hasCUDA());
  EXPECT_FALSE(check_device(at::Device(at::kCUDA, 99)).ok());
}

}  // namespace
}  // namespace autoglm::tensor
