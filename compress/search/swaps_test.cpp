#include "compress/search/swaps.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "compress/pass/pipeline.h"
#include "compress/search/testing.h"
#include "core/eval/test_folder.h"
#include "core/format/tiny_models.h"

namespace autoglm::search {
namespace {

std::vector<eval::Tokens> some_tokens() {
  std::mt19937_64 generator(1);
  std::vector<eval::Tokens> out(16);
  for (eval::Tokens& tokens : out) {
    for (int64_t i = 0; i < 32; ++i) tokens.push_back(static_cast<int32_t>(generator() % 320));
  }
  return out;
}

/// Last states of a model on the sequences, and the log-probabilities it gives them.
at::Tensor log_probabilities(const model::Decoder& model, const eval::Tokens& text) {
  at::Tensor states = model.embed(text).value();
  const model::Rotary rotary = model.rotary(states.size(1));
  for (int64_t layer = 0; layer < model.config().num_hidden_layers; ++layer) {
    states = model::forward(model.config(), model.load_block(layer).value(), rotary, states);
  }
  return at::log_softmax(model.logits(states[0]).value(), -1);
}

struct Setting {
  explicit Setting(const std::string& family)
      : source(model::Decoder::open(format::kTiny / family).value()), text(some_tokens()) {
    recipe.method = "rtn";
    SensitivityOptions options;
    options.schemes = {"int2-g32", "int3-g32", "int4-g32", "int6-g32", "int8-g32"};
    options.tokens = 512;
    options.length = 32;
    CancelToken cancel;
    sensitivity = measure_sensitivity(source, recipe, methods, text, options, cancel).value();
    const SizeRange range = size_range(sensitivity, Profile::kAny);
    bytes = range.smallest + (range.largest - range.smallest) / 6;
  }

  Result<Swapped> swap(const Allocation& start) {
    CancelToken cancel;
    const SwapOptions options{.rounds = 3, .tokens = 512, .length = 32, .scratch = folder.path()};
    return measure_swaps(source, recipe, methods, sensitivity, start, bytes, Profile::kAny, text, options, cancel);
  }

  /// Of the model written with these formats.
  double divergence(const Allocation& allocation) {
    const at::NoGradGuard no_grad;
    const pass::Recipe whole = with_allocation(recipe, sensitivity, allocation);
    const auto resolved =
        pass::resolve(whole, source.config(), source.layout(), &source.checkpoint(), methods, false).value();
    const auto plan = pass::make_plan(whole, methods, resolved, &source.checkpoint(), {}).value();
    auto writer = format::CheckpointWriter::create(folder.path() / "written", {.overwrite = true}).value();
    CancelToken cancel;
    const pass::PipelineInput input{&whole, &methods, &resolved, &plan, &source, {}, nullptr, {}};
    EXPECT_TRUE(pass::run_pipeline(input, writer, cancel).ok());
    EXPECT_TRUE(writer.commit().ok());
    const model::Decoder written = model::Decoder::open(folder.path() / "written").value();
    double sum = 0, tokens = 0;
    for (const eval::Tokens& sequence : text) {
      const at::Tensor p = log_probabilities(source, sequence), q = log_probabilities(written, sequence);
      sum += (p.exp() * (p - q)).sum().item<double>();
      tokens += static_cast<double>(sequence.size());
    }
    return sum / tokens;
  }

  model::Decoder source;
  std::vector<eval::Tokens> text;
  pass::Registry methods = testing::registry();
  pass::Recipe recipe;
  Sensitivity sensitivity;
  int64_t bytes = 0;
  eval::TestFolder folder;
};

class SwapsCase : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Tiny, SwapsCase, ::testing::Values("glm4", "chatglm", "glm4_moe"));

TEST_P(SwapsCase, MendWhatEstimatesGotWrong) {
  Setting setting(GetParam());
  // As if the first layer hardly mattered: it is left with few bits.
  for (Group& group : setting.sensitivity.groups) {
    if (group.name.find("layers.0.") == std::string::npos) continue;
    for (Candidate& candidate : group.candidates) candidate.loss /= 1000;
  }
  const Allocation start = allocate(setting.sensitivity, setting.bytes, Profile::kAny).value();
  const auto swapped = setting.swap(start);
  ASSERT_TRUE(swapped.ok()) << swapped.status().message();
  EXPECT_LE(swapped->allocation.bytes, setting.bytes);
  EXPECT_GT(swapped->measurements, 10);
  EXPECT_LT(swapped->kl_after, 0.8 * swapped->kl_before);
  // What is measured is what the files say.
  EXPECT_NEAR(swapped->kl_before, setting.divergence(start), 1e-4 * swapped->kl_before);
  EXPECT_NEAR(swapped->kl_after, setting.divergence(swapped->allocation), 1e-4 * swapped->kl_after);
  EXPECT_EQ(setting.swap(start)->allocation.choices, swapped->allocation.choices);
}

TEST(Swaps, NeverLoseMoreAndLeaveNothingBehind) {
  Setting setting("qwen3");
  const Allocation start = allocate(setting.sensitivity, setting.bytes, Profile::kAny).value();
  const auto swapped = setting.swap(start);
  ASSERT_TRUE(swapped.ok()) << swapped.status().message();
  EXPECT_LE(swapped->kl_after, swapped->kl_before);
  EXPECT_LE(swapped->allocation.bytes, setting.bytes);
  EXPECT_TRUE(std::filesystem::is_empty(setting.folder.path()));
}

}  // namespace
}  // namespace autoglm::search
