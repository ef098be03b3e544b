/// Bias correction, seen from what the pipeline writes.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "compress/quant/pipeline_testing.h"

namespace autoglm::quant {
namespace {

using testing::random_tokens;

/// Mean over tokens of q and k of the first layer, one below the other (into v, scales may be folded).
at::Tensor mean_outputs(const testing::fs::path& folder, const std::vector<eval::Tokens>& sequences) {
  const at::NoGradGuard no_grad;
  const model::Decoder decoder = model::Decoder::open(folder).value();
  const model::Block block = decoder.load_block(0).value();
  at::Tensor sum;
  model::ForwardOptions options;
  options.stop_after = format::Stage::kQkv;
  options.tap = [&](format::Stage, const std::vector<const model::Linear*>& linears, const at::Tensor& x) {
    std::vector<at::Tensor> outputs;
    for (const model::Linear* linear : linears) outputs.push_back((*linear)(x).mean(0));
    const at::Tensor all = at::cat(outputs);
    sum = sum.defined() ? sum + all : all;
  };
  for (const eval::Tokens& sequence : sequences) {
    const at::Tensor states = decoder.embed(sequence).value();
    model::forward(decoder.config(), block, decoder.rotary(states.size(1)), states, options);
  }
  const int64_t values = decoder.config().num_key_value_heads * decoder.config().head_dim;
  return sum.narrow(0, 0, sum.size(0) - values) / static_cast<double>(sequences.size());
}

TEST(BiasCorrection, GivesBackWhatRoundingTakesFromTheMeanOfOutputs) {
  for (const std::string family : {"chatglm", "qwen2", "llama_biases"}) {
    const testing::fs::path source = testing::kTiny / family;
    const auto text = random_tokens(12, 40, format::ModelConfig::load(source)->vocab_size, 1);
    const at::Tensor expected = mean_outputs(source, text);
    for (const std::string method : {"awq", "gptq"}) {
      double error[2] = {};
      for (const bool corrects : {false, true}) {
        testing::Scratch scratch;
        pass::Recipe recipe = testing::recipe_of("int2-g32", method);
        recipe.bias_correction = corrects;
        const auto done = testing::compress(source, scratch / "out", recipe, text);
        ASSERT_TRUE(done.ok()) << done.status().message();
        error[corrects ? 1 : 0] = (mean_outputs(scratch / "out", text) - expected).norm().item<double>();
      }
      // What is left is the rounding of the stored bias. Where the mean error is weighed already, biases stay.
      if (method == "gptq") {
        EXPECT_EQ(error[1], error[0]) << family;
      } else {
        EXPECT_LT(error[1], 0.05 * error[0]) << family;
      }
    }
  }
}

}  // namespace
}  // namespace autoglm::quant
