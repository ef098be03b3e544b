#include "compress/calibrate/fisher.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "compress/model/testing.h"
#include "core/format/testing.h"

namespace autoglm::calibrate {
namespace {

std::vector<eval::Tokens> some_text(int64_t sequences, int64_t length, int64_t vocabulary) {
  const at::Tensor ids =
      at::randint(vocabulary, {sequences, length}, at::detail::createCPUGenerator(3), at::kInt);
  std::vector<eval::Tokens> out;
  for (int64_t i = 0; i < sequences; ++i) {
    const auto* first = ids[i].const_data_ptr<int32_t>();
    out.emplace_back(first, first + length);
  }
  return out;
}

Fisher measured(const model::Decoder& source, const std::vector<eval::Tokens>& text, const FisherOptions& options) {
  CancelToken cancel;
  auto fisher = Fisher::measure(source, text, options, cancel);
  EXPECT_TRUE(fisher.ok()) << fisher.status().message();
  return std::move(fisher).value();
}

class FisherFamily : public format::FolderTest, public ::testing::WithParamInterface<std::string> {};
INSTANTIATE_TEST_SUITE_P(Tiny, FisherFamily, ::testing::ValuesIn(model::kTinyFamilies));

/// What a disturbed block costs by the matrix is the divergence that it brings at the model's end.
TEST_P(FisherFamily, CostsWhatTheModelLoses) {
  const at::NoGradGuard no_grad;
  const model::Decoder source = model::open_decoder(model::tiny_folder(GetParam()));
  const auto text = some_text(48, 32, source.config().vocab_size);
  const Fisher fisher = measured(source, text, {.scratch = folder_});
  const model::Rotary rotary = source.rotary(32);
  const at::Generator random = at::detail::createCPUGenerator(5);
  const int64_t layers = source.config().num_hidden_layers;
  for (int64_t layer = 0; layer < layers; ++layer) {
    double by_matrix = 0, by_model = 0;
    for (size_t i = 0; i < text.size(); i += 4) {
      at::Tensor ids = at::empty({1, 32}, at::kLong);
      std::copy(text[i].begin(), text[i].end(), ids.mutable_data_ptr<int64_t>());
      const at::Tensor wanted = model::hidden_states(source, ids)[static_cast<size_t>(layer) + 1];
      at::Tensor got = wanted + 0.02 * wanted.norm(2, {-1}, true) * at::randn(wanted.sizes(), random) /
                                    std::sqrt(static_cast<double>(source.config().hidden_size));
      by_matrix += Fisher::cost(fisher.matrix(layer).value(), got, wanted).item<double>();
      at::Tensor right = wanted;
      for (int64_t next = layer + 1; next < layers; ++next) {
        const model::Block block = source.load_block(next).value();
        got = model::forward(source.config(), block, rotary, got);
        right = model::forward(source.config(), block, rotary, right);
      }
      const at::Tensor p = at::log_softmax(source.logits(right.flatten(0, 1)).value(), -1);
      const at::Tensor q = at::log_softmax(source.logits(got.flatten(0, 1)).value(), -1);
      by_model += (p.exp() * (p - q)).sum(-1).mean().item<double>();
    }
    // Where a router chooses other experts, the model jumps, which no gradient sees.
    const bool jumps = source.config().n_routed_experts > 0 && layer + 1 < layers;
    EXPECT_GT(by_matrix, (jumps ? 0.05 : 0.7) * by_model) << layer;
    EXPECT_LT(by_matrix, 1.4 * by_model) << layer;
  }
}

using FisherTest = format::FolderTest;

TEST_F(FisherTest, IsTheSameSpilledOrNotAndForOneSeedAlone) {
  const model::Decoder source = model::open_decoder(model::tiny_folder("glm4"));
  const auto text = some_text(6, 24, source.config().vocab_size);
  const Fisher once = measured(source, text, {.scratch = folder_});
  const Fisher spilled = measured(source, text, {.memory_limit = 64, .scratch = folder_});
  const Fisher other = measured(source, text, {.seed = 1, .scratch = folder_});
  for (int64_t layer = 0; layer < source.config().num_hidden_layers; ++layer) {
    const at::Tensor matrix = once.matrix(layer).value();
    EXPECT_TRUE(at::equal(matrix, spilled.matrix(layer).value()));
    EXPECT_FALSE(at::equal(matrix, other.matrix(layer).value()));
    EXPECT_TRUE(at::allclose(matrix, matrix.t(), 1e-4, 1e-6));
  }
}

TEST_F(FisherTest, TakesAboutAsManyTokensAsItIsGiven) {
  const model::Decoder source = model::open_decoder(model::tiny_folder("glm4"));
  const auto text = some_text(6, 24, source.config().vocab_size);
  const std::vector<eval::Tokens> spread = {text[0], text[3]};
  const Fisher some = measured(source, text, {.tokens = 50, .scratch = folder_});
  const Fisher same = measured(source, spread, {.scratch = folder_});
  const Fisher least = measured(source, text, {.tokens = 1, .scratch = folder_});
  const Fisher first = measured(source, {text[0]}, {.scratch = folder_});
  EXPECT_TRUE(at::equal(some.matrix(0).value(), same.matrix(0).value()));
  EXPECT_TRUE(at::equal(least.matrix(0).value(), first.matrix(0).value()));
}

TEST_F(FisherTest, TakesNoMoreOfSequencesOfManyLengths) {
  const model::Decoder source = model::open_decoder(model::tiny_folder("glm4"));
  auto text = some_text(4, 40, source.config().vocab_size);
  text[1].resize(4);
  text[3].resize(4);
  const Fisher some = measured(source, text, {.tokens = 60, .scratch = folder_});  // two by count: both long ones
  const Fisher first = measured(source, {text[0]}, {.scratch = folder_});
  EXPECT_TRUE(at::equal(some.matrix(0).value(), first.matrix(0).value()));
}

TEST_F(FisherTest, StopsWhenItIsCancelled) {
  const model::Decoder source = model::open_decoder(model::tiny_folder("glm4"));
  CancelToken cancel;
  cancel.cancel();
  const auto text = some_text(2, 24, source.config().vocab_size);
  EXPECT_EQ(Fisher::measure(source, text, {.scratch = folder_}, cancel).status().code(), StatusCode::kCancelled);
}

TEST(FisherCost, IsNothingWhereNothingChangesAndCountsAgainstTheSize) {
  const at::Tensor matrix = at::eye(3), wanted = at::tensor({3.F, 0.F, 4.F}).view({1, 1, 3});
  EXPECT_EQ(Fisher::cost(matrix, wanted, wanted).item<double>(), 0);
  const at::Tensor got = (wanted + at::tensor({0.F, 1.F, 0.F})).requires_grad_();
  const at::Tensor cost = Fisher::cost(matrix, got, wanted);
  EXPECT_FLOAT_EQ(cost.item<float>(), 0.5F / 25);
  cost.backward();
  EXPECT_TRUE(at::allclose(got.grad(), at::tensor({0.F, 1.F / 25, 0.F}).view({1, 1, 3})));
  const at::Tensor nothing = at::zeros({1, 1, 3});
  EXPECT_EQ(Fisher::cost(matrix, nothing, nothing).item<double>(), 0) << "a state of no size divides nothing";
}

}  // namespace
}  // namespace autoglm::calibrate
