#include "core/format/quantized_weight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "core/format/testing.h"

namespace autoglm::format {
namespace {

using ::testing::HasSubstr;

QuantizedWeight random_weight(const QuantArgs& args, int64_t rows, int64_t cols, DType scale_dtype = DType::kBF16) {
  std::mt19937 random(static_cast<unsigned>(rows * 1000 + cols + args.num_bits));
  const auto integer = [&] {
    return static_cast<int8_t>(args.q_min() + static_cast<int>(random() % (1u << args.num_bits)));
  };
  QuantizedWeight weight{.args = args, .rows = rows, .cols = cols, .scale_dtype = scale_dtype};
  weight.values.resize(static_cast<size_t>(rows * cols));
  for (int8_t& v : weight.values) v = integer();
  weight.scales.resize(static_cast<size_t>(args.strategy == Strategy::kTensor ? 1 : rows * args.groups(cols)));
  for (float& s : weight.scales)
    s = bf16_to_float(float_to_bf16(0.01f + static_cast<float>(random() % 1000) / 3000.0f));
  if (!args.symmetric) {
    weight.zero_points.resize(weight.scales.size());
    for (int8_t& z : weight.zero_points) z = integer();
  }
  return weight;
}

std::vector<QuantArgs> all_args(int64_t group_size) {
  std::vector<QuantArgs> all;
  for (int bits = 1; bits <= 8; ++bits) {
    for (const bool symmetric : {true, false}) {
      for (const Strategy strategy : {Strategy::kTensor, Strategy::kChannel, Strategy::kGroup}) {
        all.push_back({.num_bits = bits,
                       .symmetric = symmetric,
                       .strategy = strategy,
                       .group_size = strategy == Strategy::kGroup ? group_size : 0});
      }
    }
  }
  return all;
}

class QuantizedWeightTest : public FolderTest {
 protected:
  Checkpoint checkpoint_of(const std::vector<StoredTensor>& tensors) {
    write("model.safetensors", safetensors_bytes(tensors));
    auto checkpoint = Checkpoint::open(folder_);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
    return std::move(*checkpoint);
  }
};

TEST_F(QuantizedWeightTest, ReadsWhatItWrites) {
  for (const std::string_view format : {kPackQuantized, kIntQuantized}) {
    for (const QuantArgs& args : all_args(5)) {
      for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{67, 45}, {1, 5}, {32, 160}}) {
        const QuantizedWeight weight = random_weight(args, rows, cols);
        const Checkpoint checkpoint = checkpoint_of(encode(weight, "m", format));
        const auto back = decode(checkpoint, "m", {.weights = args}, format, {rows, cols});
        ASSERT_TRUE(back.ok()) << back.status().message();
        EXPECT_EQ(back->values, weight.values);
        EXPECT_EQ(back->scales, weight.scales);
        EXPECT_EQ(back->zero_points, weight.zero_points);
        EXPECT_EQ(back->scale_dtype, weight.scale_dtype);
      }
    }
  }
}

TEST_F(QuantizedWeightTest, ReadsAnyRangeOfRows) {
  for (const std::string_view format : {kPackQuantized, kIntQuantized}) {
    for (const QuantArgs& args : all_args(8)) {
      const QuantizedWeight weight = random_weight(args, 71, 40);
      const Checkpoint checkpoint = checkpoint_of(encode(weight, "m", format));
      std::vector<float> whole(71 * 40);
      dequantize(weight, whole);
      for (const auto& [first, count] :
           {std::pair<int64_t, int64_t>{0, 1}, {31, 2}, {32, 39}, {70, 1}, {71, 0}, {0, 71}, {33, 20}}) {
        const auto rows = decode_rows(checkpoint, "m", {.weights = args}, format, {71, 40}, first, count);
        ASSERT_TRUE(rows.ok()) << rows.status().message();
        std::vector<float> part(static_cast<size_t>(count * 40));
        dequantize(*rows, part);
        EXPECT_EQ(part, std::vector<float>(whole.begin() + first * 40, whole.begin() + (first + count) * 40));
      }
      EXPECT_FALSE(decode_rows(checkpoint, "m", {.weights = args}, format, {71, 40}, 71, 1).ok());
      EXPECT_FALSE(decode_rows(checkpoint, "m", {.weights = args}, format, {71, 40}, -1, 1).ok());
    }
  }
}

TEST_F(QuantizedWeightTest, PlansWhatItWrites) {
  for (const std::string_view format : {kPackQuantized, kIntQuantized}) {
    for (const QuantArgs& args : all_args(9)) {
      const auto tensors = encode(random_weight(args, 33, 45, DType::kF16), "a.b", format);
      const auto layout = stored_layout(args, {33, 45}, DType::kF16, "a.b", format);
      ASSERT_EQ(tensors.size(), layout.size());
      for (size_t i = 0; i < layout.size(); ++i) {
        EXPECT_EQ(layout[i].name, tensors[i].name);
        EXPECT_EQ(layout[i].dtype, tensors[i].dtype);
        EXPECT_EQ(layout[i].shape, tensors[i].shape);
        EXPECT_EQ(layout[i].nbytes, static_cast<int64_t>(tensors[i].bytes.size()));
        EXPECT_EQ(*element_count(layout[i].shape) * size_of(layout[i].dtype), layout[i].nbytes);
      }
    }
  }
}

TEST_F(QuantizedWeightTest, DequantizesByTheFormula) {
  for (const QuantArgs& args : all_args(3)) {
    const QuantizedWeight w = random_weight(args, 4, 9);
    std::vector<float> out(36);
    dequantize(w, out);
    for (int64_t r = 0; r < 4; ++r) {
      for (int64_t c = 0; c < 9; ++c) {
        const int64_t s = args.strategy == Strategy::kTensor    ? 0
                          : args.strategy == Strategy::kChannel ? r
                                                                : r * 3 + c / 3;
        const int zero = args.symmetric ? 0 : w.zero_points[static_cast<size_t>(s)];
        EXPECT_EQ(
            out[static_cast<size_t>(r * 9 + c)],
            static_cast<float>(w.values[static_cast<size_t>(r * 9 + c)] - zero) * w.scales[static_cast<size_t>(s)]);
      }
    }
  }
}

// What older releases of llm-compressor wrote: flat channel scales, plain zero points beside packed values, the zeros
// of symmetric weights, no weight_shape.
TEST_F(QuantizedWeightTest, ReadsOlderSpellings) {
  const QuantArgs args{.num_bits = 4, .symmetric = false, .strategy = Strategy::kChannel};
  const QuantizedWeight weight = random_weight(args, 10, 16);
  auto tensors = encode(weight, "m", kPackQuantized);
  tensors[1].shape = {10};
  tensors[2] = stored("m.weight_zero_point", DType::kI8, {10, 1}, weight.zero_points);
  tensors.pop_back();
  const Checkpoint checkpoint = checkpoint_of(tensors);
  const auto back = decode(checkpoint, "m", {.weights = args}, kPackQuantized, {10, 16});
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_EQ(back->values, weight.values);
  EXPECT_EQ(back->zero_points, weight.zero_points);

  const QuantArgs symmetric{.num_bits = 8, .strategy = Strategy::kChannel};
  const QuantizedWeight plain = random_weight(symmetric, 10, 16);
  auto with_zeros = encode(plain, "m", kIntQuantized);
  with_zeros.push_back(stored<int8_t>("m.weight_zero_point", DType::kI8, {10, 1}, std::vector<int8_t>(10, 0)));
  const auto read = decode(checkpoint_of(with_zeros), "m", {.weights = symmetric}, kNaiveQuantized, {10, 16});
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_TRUE(read->zero_points.empty());
  with_zeros.back().bytes[3] = std::byte{1};
  EXPECT_THAT(
      decode(checkpoint_of(with_zeros), "m", {.weights = symmetric}, kIntQuantized, {10, 16}).status().message(),
      HasSubstr("is not zero"));
}

TEST_F(QuantizedWeightTest, RefusesWhatContradictsTheScheme) {
  const QuantArgs args{.num_bits = 4, .symmetric = false, .strategy = Strategy::kGroup, .group_size = 8};
  const QuantizedWeight weight = random_weight(args, 6, 16);
  const auto refusal = [&](std::string_view format, const QuantArgs& scheme, const Shape& shape, auto change) {
    auto tensors = encode(weight, "layers.0.q", format);
    change(tensors);
    const auto result = decode(checkpoint_of(tensors), "layers.0.q", {.weights = scheme}, format, shape);
    EXPECT_FALSE(result.ok());
    EXPECT_EQ(result.status().code(), StatusCode::kBadInput);
    EXPECT_THAT(result.status().message(), HasSubstr("'layers.0.q.weight"));
    EXPECT_THAT(result.status().message(), HasSubstr(folder_.string()));
    return result.status().message();
  };
  const auto nothing = [](auto&) {};
  const auto drop = [](std::string name) {
    return [name](std::vector<StoredTensor>& tensors) {
      std::erase_if(tensors, [&](const auto& t) { return t.name.ends_with(name); });
    };
  };
  for (const std::string_view format : {kPackQuantized, kIntQuantized}) {
    EXPECT_THAT(refusal(format, args, {6, 16}, drop("weight_scale")), HasSubstr("weight_scale' is missing"));
    EXPECT_THAT(refusal(format, args, {6, 16}, drop("weight_zero_point")), HasSubstr("weight_zero_point' is missing"));
    EXPECT_THAT(refusal(format, args, {7, 16}, nothing), HasSubstr("expected"));
    EXPECT_THAT(refusal(format, args, {6, 24}, nothing), HasSubstr("expected"));
    QuantArgs other = args;
    other.group_size = 4;
    EXPECT_THAT(refusal(format, other, {6, 16}, nothing), HasSubstr("weight_scale' has shape [6, 2], but [6, 4]"));
    other.group_size = 5;
    EXPECT_THAT(refusal(format, other, {6, 16}, nothing), HasSubstr("group_size 5 does not divide"));
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      EXPECT_THAT(refusal(format, args, {6, 16},
                          [&](auto& tensors) {
                            const uint16_t bits = float_to_bf16(bad);
                            std::memcpy(tensors[1].bytes.data() + 7 * 2, &bits, 2);
                          }),
                  HasSubstr(std::isnan(bad) ? "is NaN at [3, 1]" : "is infinite at [3, 1]"));
    }
    EXPECT_THAT(refusal(format, args, {6, 16},
                        [](auto& tensors) {
                          tensors[1] = stored<double>(tensors[1].name, DType::kF64, {6, 2}, std::vector<double>(12, 1));
                        }),
                HasSubstr("has dtype F64"));
    EXPECT_THAT(refusal(format, args, {6, 16},
                        [](auto& tensors) {
                          tensors.push_back(stored<int32_t>("layers.0.q.weight_g_idx", DType::kI32, {16},
                                                            std::vector<int32_t>(16, 0)));
                        }),
                HasSubstr("activation"));
    EXPECT_THAT(refusal(format, args, {6, 16},
                        [](auto& tensors) {
                          tensors[2] = stored<int8_t>(tensors[2].name, DType::kI8, {6, 2}, std::vector<int8_t>(12, 8));
                        }),
                HasSubstr("value 8, beyond 4 bits"));
  }
  EXPECT_THAT(refusal(kPackQuantized, args, {6, 16}, drop("weight_packed")), HasSubstr("weight_packed' is missing"));
  EXPECT_THAT(refusal(kIntQuantized, args, {6, 16}, drop(".weight")), HasSubstr("weight' is missing"));
  EXPECT_THAT(refusal(kIntQuantized, args, {6, 16}, [](auto& tensors) { tensors[0].bytes[5] = std::byte{9}; }),
              HasSubstr("beyond 4 bits"));
  EXPECT_THAT(refusal(kPackQuantized, args, {6, 16}, [](auto& tensors) { tensors[3].bytes[0] = std::byte{7}; }),
              HasSubstr("says [7, 16], but [6, 16]"));
  QuantArgs eight = args;
  eight.num_bits = 8;
  EXPECT_THAT(refusal(kPackQuantized, eight, {6, 16}, nothing),
              HasSubstr("weight_packed' has shape [6, 2], but [6, 4]"));
  const auto result =
      decode(checkpoint_of(encode(weight, "m", kPackQuantized)), "m", {.weights = args}, "marlin-24", {6, 16});
  EXPECT_THAT(result.status().message(), HasSubstr("'marlin-24' is not supported"));
}

}  // namespace
}  // namespace autoglm::format
