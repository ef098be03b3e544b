#include "compress/model/linear.h"

#include "compress/model/testing.h"

namespace autoglm::model {
namespace {

using format::Strategy;

TEST(FakeQuantize, GivesTheBitsOfCompressedTensors) {
  const std::filesystem::path file = std::filesystem::path(AUTOGLM_SOURCE_DIR) / "tests/data/fake_quantize.safetensors";
  for (const std::string kind : {"f32", "bf16", "f16"}) {
    const at::Tensor x = read_tensor(file, "x." + kind);
    for (const Strategy strategy : {Strategy::kToken, Strategy::kTensor}) {
      for (const bool symmetric : {true, false}) {
        for (const int bits : {8, 4}) {
          const format::QuantArgs args{.num_bits = bits, .symmetric = symmetric, .strategy = strategy, .dynamic = true};
          const std::string name = "y." + kind + "." + std::string(to_string(strategy)) +
                                   (symmetric ? ".symmetric." : ".asymmetric.") + std::to_string(bits);
          EXPECT_TRUE(fake_quantize(x, {args}).equal(read_tensor(file, name))) << name;
        }
      }
    }
  }
}

TEST(FakeQuantize, TokensDoNotDependOnOneAnother) {
  at::manual_seed(1);
  const at::Tensor x = at::randn({6, 32});
  const format::QuantArgs args{.strategy = Strategy::kToken, .dynamic = true};
  const at::Tensor whole = fake_quantize(x, {args});
  for (int64_t i = 0; i < x.size(0); ++i)
    EXPECT_TRUE(fake_quantize(x[i].unsqueeze(0), {args}).equal(whole[i].unsqueeze(0)));
  EXPECT_TRUE(fake_quantize(x.view({2, 3, 32}), {args}).equal(whole.view({2, 3, 32})));
  EXPECT_EQ(fake_quantize(x.narrow(0, 0, 0), {args}).numel(), 0);
}

TEST(FakeQuantize, RefusesWhatItCannotRun) {
  EXPECT_THROW(fake_quantize(at::ones({2, 4}), {{.strategy = Strategy::kToken, .dynamic = false}}), c10::Error);
  EXPECT_THROW(fake_quantize(at::ones({2, 4}), {{.strategy = Strategy::kChannel, .dynamic = true}}), c10::Error);
}

TEST(FakeQuantize, TakesTheScaleOfTheArtifact) {
  const at::Tensor x = at::tensor({-100.0F, -1.3F, 0.2F, 0.26F, 0.75F, 63.6F, 64.0F});
  const format::InputQuant symmetric{{.strategy = Strategy::kTensor}, 0.5F};
  EXPECT_TRUE(fake_quantize(x, symmetric).equal(at::tensor({-64.0F, -1.5F, 0.0F, 0.5F, 1.0F, 63.5F, 63.5F})));
  const format::InputQuant shifted{{.symmetric = false, .strategy = Strategy::kTensor}, 0.5F, -100};
  EXPECT_TRUE(fake_quantize(x, shifted).equal(at::tensor({-14.0F, -1.5F, 0.0F, 0.5F, 1.0F, 63.5F, 64.0F})));
}

TEST(Linear, QuantizesItsInputWhereTheSchemeSaysSo) {
  at::manual_seed(2);
  Linear linear{.weight = at::randn({5, 16}), .bias = at::randn({5})};
  const at::Tensor x = at::randn({2, 3, 16});
  EXPECT_TRUE(linear(x).allclose(x.matmul(linear.weight.t()) + linear.bias, 1e-5, 1e-5));
  linear.input = format::InputQuant{{.num_bits = 4, .strategy = Strategy::kToken, .dynamic = true}};
  const at::Tensor coarse = fake_quantize(x, *linear.input);
  EXPECT_FALSE(coarse.allclose(x));
  EXPECT_TRUE(linear(x).allclose(coarse.matmul(linear.weight.t()) + linear.bias, 1e-5, 1e-5));
}

}  // namespace
}  // namespace autoglm::model
