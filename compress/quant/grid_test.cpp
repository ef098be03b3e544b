#include "compress/quant/grid.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "compress/quant/cast.h"
#include "compress/quant/rtn.h"
#include "compress/quant/testing.h"

namespace autoglm::quant {
namespace {

using format::DType;
using testing::cancel;
using testing::dequantized;
using testing::quantized;
using testing::random_normal;
using testing::target_of;

/// Scales per element [rows, cols].
at::Tensor scales_of(const format::QuantizedWeight& weight) {
  at::Tensor out = at::empty({weight.rows, weight.cols});
  const int64_t width = weight.args.strategy == format::Strategy::kGroup ? weight.args.group_size : weight.cols;
  for (int64_t r = 0; r < weight.rows; ++r) {
    for (int64_t c = 0; c < weight.cols; ++c) out[r][c] = grid_at(weight, r, c / width).scale;
  }
  return out;
}

class EveryScheme : public ::testing::TestWithParam<std::string> {};

std::vector<std::string> scheme_words() {
  std::vector<std::string> words;
  for (const char* bits : {"int2", "int3", "int4", "int5", "int6", "int7", "int8"}) {
    for (const char* scope : {"-g16", "-g24", "-channel", "-tensor"}) {
      for (const char* symmetry : {"", "-asym", "-restricted"}) words.push_back(std::string(bits) + scope + symmetry);
    }
  }
  return words;
}

TEST_P(EveryScheme, MinMaxErrsByHalfAStepAtMostAndStaysInRange) {
  for (const DType scale : {DType::kF32, DType::kBF16, DType::kF16}) {
    const at::Tensor weight =
        random_normal({7, 48}, 1) * at::exp(random_normal({7, 1}, 2)) + 0.1 * random_normal({7, 48}, 3);
    pass::Target target = target_of(weight, GetParam() + "-minmax", scale);
    ASSERT_TRUE(round_to_nearest(target, cancel()).ok());
    const format::QuantizedWeight& q = quantized(target);
    for (const int8_t value : q.values) {
      EXPECT_GE(value, target.scheme.q_min());
      EXPECT_LE(value, target.scheme.q_max());
    }
    const at::Tensor error = (weight - dequantized(target)).abs();
    const at::Tensor bound = scales_of(q) * (0.5 * (1 + 1e-4));
    EXPECT_TRUE((error <= bound).all().item<bool>()) << (error / scales_of(q)).max().item<float>();
  }
}

TEST_P(EveryScheme, SearchNeverErrsMoreThanMinMaxAndRoundingIsIdempotent) {
  const at::Tensor weight = random_normal({7, 48}, 4) * at::exp(random_normal({7, 48}, 5));
  pass::Target plain = target_of(weight, GetParam() + "-minmax", DType::kBF16);
  pass::Target searched = target_of(weight, GetParam(), DType::kBF16);
  ASSERT_TRUE(round_to_nearest(plain, cancel()).ok());
  ASSERT_TRUE(round_to_nearest(searched, cancel()).ok());
  const auto mse = [&](const pass::Target& t) { return (weight - dequantized(t)).square().sum().item<double>(); };
  EXPECT_LE(mse(searched), mse(plain) * (1 + 1e-5));

  // Quantizing what was dequantized on the same grid gives the same integers.
  format::QuantizedWeight again = quantized(searched);
  quantize_rows(dequantized(searched), 0, searched.scheme, again);
  EXPECT_EQ(again.values, quantized(searched).values);
}

INSTANTIATE_TEST_SUITE_P(Schemes, EveryScheme, ::testing::ValuesIn(scheme_words()), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(Grid, SymmetricIntegersMatchAPlainReference) {
  const at::Tensor weight = random_normal({5, 64}, 6);
  pass::Target target = target_of(weight, "int4-g32-minmax");
  ASSERT_TRUE(round_to_nearest(target, cancel()).ok());
  const at::Tensor groups = weight.to(at::kDouble).view({5, 2, 32});
  const at::Tensor scale = at::maximum(groups.amax(-1) / 7.5, -groups.amin(-1) / 8.5).to(at::kFloat);
  const at::Tensor expected =
      (groups.to(at::kFloat) / scale.unsqueeze(-1)).round().clamp(-8, 7).view({5, 64}).to(at::kChar);
  const format::QuantizedWeight& q = quantized(target);
  for (int64_t i = 0; i < 5; ++i) {
    for (int64_t g = 0; g < 2; ++g) EXPECT_FLOAT_EQ(grid_at(q, i, g).scale, scale[i][g].item<float>());
    for (int64_t j = 0; j < 64; ++j) EXPECT_EQ(q.values[i * 64 + j], expected[i][j].item<int8_t>());
  }
}

TEST(Grid, AsymmetricGridsHoldZeroAndUseTheWholeRange) {
  const at::Tensor weight = random_normal({4, 64}, 7) + 3.0;  // all on one side
  pass::Target target = target_of(weight, "int4-channel-asym-minmax");
  ASSERT_TRUE(round_to_nearest(target, cancel()).ok());
  const format::QuantizedWeight& q = quantized(target);
  for (int64_t r = 0; r < 4; ++r) {
    const float low = std::min(0.0f, weight[r].min().item<float>()), high = weight[r].max().item<float>();
    EXPECT_NEAR(q.scales[r], (high - low) / 15, 1e-6);
    EXPECT_EQ(q.zero_points[r], std::lround(-8 - low / q.scales[r]));
  }
}

TEST(Grid, ZeroConstantAndTinyGroups) {
  at::Tensor weight = at::zeros({4, 32});
  weight[1].fill_(0.37);
  weight[2].fill_(1e-42);  // denormal
  weight[3].fill_(-3e38);
  for (const char* word : {"int4-g16", "int4-g16-asym", "int8-channel", "int2-g16-minmax"}) {
    pass::Target target = target_of(weight, word);
    ASSERT_TRUE(round_to_nearest(target, cancel()).ok()) << word;
    for (const float scale : quantized(target).scales) EXPECT_TRUE(std::isnormal(scale) && scale > 0) << word;
    const at::Tensor back = dequantized(target);
    EXPECT_TRUE((back[0] == 0).all().item<bool>()) << word;
    EXPECT_NEAR(back[1][5].item<float>(), 0.37, 0.19) << word;
    EXPECT_TRUE(at::isfinite(back).all().item<bool>()) << word;
  }
}

TEST(Grid, StoredScaleTypesHoldTheirScalesExactly) {
  const at::Tensor weight = random_normal({16, 128}, 8) * 1e-3;
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    pass::Target target = target_of(weight, "int4-g32-asym", dtype);
    ASSERT_TRUE(round_to_nearest(target, cancel()).ok());
    for (const float scale : quantized(target).scales) {
      const float stored = dtype == DType::kBF16 ? format::bf16_to_float(format::float_to_bf16(scale))
                                                 : format::fp16_to_float(format::float_to_fp16(scale));
      EXPECT_EQ(stored, scale);
    }
  }
}

TEST(Grid, ImportanceMovesTheScaleToWhatMatters) {
  at::Tensor weight = random_normal({1, 64}, 9) * 0.1;
  weight[0][0] = 2.0;  // an outlier that hardly matters
  at::Tensor importance = at::ones({64});
  importance[0] = 1e-6;
  pass::Scheme scheme = pass::Scheme::parse("int4-channel").value();
  const GroupGrid plain = fit_group(weight.data_ptr<float>(), nullptr, 64, scheme, DType::kF32);
  const GroupGrid weighted = fit_group(weight.data_ptr<float>(), importance.data_ptr<float>(), 64, scheme, DType::kF32);
  EXPECT_LT(weighted.scale, plain.scale);
  EXPECT_LT(group_error(weight.data_ptr<float>(), importance.data_ptr<float>(), 64, weighted, scheme),
            group_error(weight.data_ptr<float>(), importance.data_ptr<float>(), 64, plain, scheme));
}

TEST(Grid, NamesTheElementThatIsNotFinite) {
  for (const char* word : {"int4-g16", "int8-tensor", "bf16"}) {
    at::Tensor weight = random_normal({6, 32}, 10);
    weight[4][17] = std::numeric_limits<float>::quiet_NaN();
    pass::Target target = target_of(weight, word);
    const auto rtn = make_rtn({}).value();
    std::vector<pass::Target*> stage = {&target};
    const Status status = rtn->run(stage, cancel());
    EXPECT_EQ(status.code(), StatusCode::kBadInput);
    EXPECT_THAT(status.message(), ::testing::HasSubstr("layer.proj"));
    EXPECT_THAT(status.message(), ::testing::HasSubstr("row 4, column 17"));
  }
}

TEST(Grid, ReadInPiecesGivesTheSame) {
  const at::Tensor weight = random_normal({300, 40000}, 11);  // 48 MB: two pieces
  pass::Target target = target_of(weight, "int4-g32-minmax", DType::kBF16);
  ASSERT_TRUE(round_to_nearest(target, cancel()).ok());
  pass::Target tail = target_of(weight.narrow(0, 250, 50).contiguous(), "int4-g32-minmax", DType::kBF16);
  ASSERT_TRUE(round_to_nearest(tail, cancel()).ok());
  const auto& all = quantized(target).values;
  EXPECT_TRUE(std::equal(quantized(tail).values.begin(), quantized(tail).values.end(), all.begin() + 250 * 40000));
}

TEST(Grid, StopsWhenCancelled) {
  CancelToken stop;
  stop.cancel();
  pass::Target target = target_of(random_normal({4, 32}, 12), "int4-g16");
  EXPECT_EQ(round_to_nearest(target, stop).code(), StatusCode::kCancelled);
}

TEST(Cast, RoundsAndRefusesWhatDoesNotFit) {
  const at::Tensor weight = random_normal({9, 33}, 13);
  for (const auto& [word, type] : {std::pair{"fp16", at::kHalf}, {"bf16", at::kBFloat16}, {"fp32", at::kFloat}}) {
    pass::Target target = target_of(weight, word);
    ASSERT_TRUE(cast(target, cancel()).ok());
    const auto& bytes = std::get<pass::CastWeight>(target.result).bytes;
    const at::Tensor expected = weight.to(type).contiguous();
    ASSERT_EQ(bytes.size(), expected.nbytes());
    EXPECT_EQ(std::memcmp(bytes.data(), expected.data_ptr(), bytes.size()), 0);
  }
  at::Tensor large = at::zeros({2, 3});
  large[1][2] = 65519.0;  // still rounds to 65504
  pass::Target fits = target_of(large, "fp16");
  EXPECT_TRUE(cast(fits, cancel()).ok());
  large[1][2] = -65520.0;
  pass::Target overflows = target_of(large, "fp16");
  const Status status = cast(overflows, cancel());
  EXPECT_EQ(status.code(), StatusCode::kBadInput);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("row 1, column 2"));
}

}  // namespace
}  // namespace autoglm::quant
