#include "compress/calibrate/likelihood.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "compress/model/testing.h"
#include "compress/tensor/bridge.h"
#include "core/format/testing.h"

namespace autoglm::calibrate {
namespace {

class LikelihoodFamily : public format::FolderTest, public ::testing::WithParamInterface<std::string> {};
INSTANTIATE_TEST_SUITE_P(Tiny, LikelihoodFamily, ::testing::ValuesIn(model::kTinyFamilies));

/// More tokens than the head sees at once, in sequences of different lengths.
std::vector<eval::Tokens> text_of(const model::Decoder& source) {
  const at::Generator random = at::detail::createCPUGenerator(3);
  std::vector<eval::Tokens> out;
  for (int64_t i = 0; i < 80; ++i) {
    const at::Tensor ids = at::randint(source.config().vocab_size, {48 + 8 * (i % 3)}, random, at::kInt);
    out.emplace_back(ids.const_data_ptr<int32_t>(), ids.const_data_ptr<int32_t>() + ids.numel());
  }
  return out;
}

/// The drawn tokens, found where the logits' gradients are above zero, give by autograd the gradients of states.
TEST_P(LikelihoodFamily, IsTheGradientOfTokensItDrew) {
  const model::Decoder source = model::open_decoder(model::tiny_folder(GetParam()));
  const std::vector<eval::Tokens> text = text_of(source);
  const int64_t layers = source.config().num_hidden_layers;
  CancelToken cancel;
  auto pass = LikelihoodGradient::create(source, text, {.memory_limit = 1 << 18, .scratch = folder_}, cancel);
  ASSERT_TRUE(pass.ok()) << pass.status().message();
  for (int64_t layer = 0; layer < layers; ++layer) ASSERT_TRUE(pass->forward(layer).ok());
  std::vector<at::Tensor> drawn(text.size()), states, gradients;
  int64_t row = 0;
  const auto find_drawn = [&](const at::Tensor& rows, const at::Tensor& gradient, const at::Tensor& x, size_t first) {
    if (!drawn[first].defined()) row = 0;
    for (int64_t at = 0; at < x.size(0); ++first) {
      const auto length = static_cast<int64_t>(text[first].size());
      if (!drawn[first].defined()) drawn[first] = at::full({length, 1}, -1, at::kLong);
      for (const at::Tensor& found : gradient.narrow(0, at, length).gt(0).nonzero().unbind(0)) {
        at::Tensor place = drawn[first][found[0].item<int64_t>()];
        EXPECT_EQ(place.item<int64_t>(), -1);
        place.fill_(row + found[1]);
      }
      at += length;
    }
    row += rows.size(0);
    return ok_status();
  };
  const auto keep = [&](size_t, const at::Tensor& state, const at::Tensor& gradient) {
    states.push_back(state.clone());
    gradients.push_back(gradient.clone());
    return ok_status();
  };
  ASSERT_TRUE(pass->head(find_drawn, keep).ok());
  const at::Tensor head = source.load_weight(source.stored().head(), at::kFloat).value();
  const std::string name = source.layout().find(format::Role::kFinalNorm)->weight_name();
  const at::Tensor norm = tensor::load(source.checkpoint(), name, at::kFloat).value();
  const auto likelihood_of = [&](size_t i, const at::Tensor& state) {
    const at::Tensor x = model::rms_norm(state.flatten(0, 1), norm, source.config().rms_norm_eps);
    return at::log_softmax(at::mm(x, head.t()), -1).gather(1, drawn[i]).sum();
  };
  for (size_t i = 0; i < text.size(); i += 7) {
    const at::AutoGradMode with_gradient(true);
    const at::Tensor state = states[i].detach().requires_grad_();
    likelihood_of(i, state).backward();
    EXPECT_TRUE(at::allclose(gradients[i], state.grad(), 1e-3, 1e-5)) << i;
    EXPECT_TRUE(at::equal(gradients[i], pass->gradient(i).value())) << i;
  }
  states.clear();
  gradients.clear();
  const model::Block block = source.load_block(layers - 1).value();
  ASSERT_TRUE(pass->back(layers - 1, block, keep).ok());
  const model::Rotary rotary = source.rotary(64);
  for (size_t i = 0; i < text.size(); i += 7) {
    const at::AutoGradMode with_gradient(true);
    const at::Tensor state = states[i].detach().requires_grad_();
    likelihood_of(i, model::forward(source.config(), block, rotary, state)).backward();
    EXPECT_TRUE(at::allclose(gradients[i], state.grad(), 1e-3, 1e-5)) << i;
  }
}

TEST(Likelihood, NeedsText) {
  const model::Decoder source = model::open_decoder(model::tiny_folder("glm4"));
  CancelToken cancel;
  EXPECT_EQ(LikelihoodGradient::create(source, {}, {}, cancel).status().code(), StatusCode::kInvalidArgument);
}

TEST(Likelihood, StopsWhenCancelled) {
  const model::Decoder source = model::open_decoder(model::tiny_folder("glm4"));
  CancelToken cancel;
  auto pass = LikelihoodGradient::create(source, text_of(source), {}, cancel);
  ASSERT_TRUE(pass.ok());
  cancel.cancel();
  EXPECT_EQ(pass->forward(0).code(), StatusCode::kCancelled);
}

}  // namespace
}  // namespace autoglm::calibrate
