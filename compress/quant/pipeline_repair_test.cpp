/// What the pipeline does about matrices that lose too much.
#include <gtest/gtest.h>

#include <map>

#include "compress/quant/pipeline_testing.h"

namespace autoglm::quant {
namespace {

using testing::compress;
using testing::kTiny;
using testing::random_tokens;
using testing::Scratch;

std::map<std::string, pass::TensorReport> by_name(const pass::PipelineReport& report) {
  std::map<std::string, pass::TensorReport> out;
  for (const pass::TensorReport& tensor : report.tensors) out[tensor.name] = tensor;
  return out;
}

class RepairCase : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Tiny, RepairCase, ::testing::Values("glm4", "chatglm", "qwen2", "glm4_moe"));

TEST_P(RepairCase, GivesMoreBitsWhereTooMuchIsLostAndNowhereElse) {
  const std::filesystem::path source = kTiny / GetParam();
  const auto text = random_tokens(8, 32, format::ModelConfig::load(source)->vocab_size, 1);
  Scratch scratch;
  pass::Recipe recipe = testing::recipe_of("int3-g32", "gptq");
  const auto plain = compress(source, scratch / "plain", recipe, text);
  ASSERT_TRUE(plain.ok()) << plain.status().message();
  std::vector<double> losses;
  for (const auto& [name, report] : by_name(plain->report)) losses.push_back(report.output_error);
  std::nth_element(losses.begin(), losses.begin() + losses.size() / 2, losses.end());
  recipe.repair = losses[losses.size() / 2];  // about half of them lose more

  const auto done = compress(source, scratch / "out", recipe, text);
  ASSERT_TRUE(done.ok()) << done.status().message();
  int raised = 0;
  for (const auto& [name, report] : by_name(done->report)) {
    if (name.find("experts.") != std::string::npos && name.find("shared") == std::string::npos) {
      EXPECT_EQ(report.scheme, "int3-g32") << name;
      continue;
    }
    EXPECT_LE(report.output_error, recipe.repair) << name;
    raised += report.scheme == "int3-g32" ? 0 : 1;
    EXPECT_EQ(report.scheme == "int3-g32", report.note.find("lost") == std::string::npos) << name << report.note;
  }
  EXPECT_GT(raised, 0);
  EXPECT_LT(raised, static_cast<int>(losses.size()));

  // The files say so themselves, and are read.
  const model::Decoder decoder = model::Decoder::open(scratch / "out").value();
  for (const auto& [name, report] : by_name(done->report)) {
    for (const format::ModuleSpec& module : decoder.layout().modules()) {
      if (module.name != name) continue;
      const auto expected = pass::Scheme::parse(report.scheme)->weights.num_bits;
      EXPECT_EQ(decoder.stored().scheme_of(module)->weights->num_bits, expected) << name;
    }
  }
  EXPECT_TRUE(decoder.load_block(0).ok());
}

TEST(Repair, CorrectsABiasBeforeItSpendsBits) {
  const std::filesystem::path source = kTiny / "llama_biases";
  const auto text = random_tokens(8, 32, format::ModelConfig::load(source)->vocab_size, 1);
  Scratch scratch;
  pass::Recipe recipe = testing::recipe_of("int2-g32", "gptq");
  const auto plain = compress(source, scratch / "plain", recipe, text);
  ASSERT_TRUE(plain.ok()) << plain.status().message();
  recipe.repair = 1e-9;
  recipe.overrides.push_back(pass::Recipe::parse_override(".*=int8-g32").value());  // no more bits to be had
  const auto without = compress(
      source, scratch / "without",
      [&] {
        pass::Recipe same = recipe;
        same.bias_correction = false;
        return same;
      }(),
      text);
  const auto with = compress(source, scratch / "with", recipe, text);
  ASSERT_TRUE(without.ok() && with.ok());
  const auto before = by_name(without->report), after = by_name(with->report);
  int better = 0;
  for (const auto& [name, report] : after) {
    EXPECT_EQ(report.scheme, "int8-g32");
    // Those of the first block that have the same inputs in both runs.
    if (name.find("layers.0.self_attn.") == std::string::npos || name.ends_with("o_proj")) continue;
    EXPECT_LE(report.output_error, before.at(name).output_error) << name;
    better += report.output_error < before.at(name).output_error ? 1 : 0;
  }
  EXPECT_GT(better, 0);
}

TEST(Repair, ARunThatIsResumedRepeatsIt) {
  const std::filesystem::path source = kTiny / "qwen2";
  const auto text = random_tokens(8, 32, format::ModelConfig::load(source)->vocab_size, 1);
  Scratch scratch;
  pass::Recipe recipe = testing::recipe_of("int2-g32", "gptq");
  recipe.repair = 0.05;
  ASSERT_TRUE(compress(source, scratch / "whole", recipe, text).ok());
  const auto journal = pass::Journal::open(scratch / "out", {{"seed", 1}}, false);
  const auto run = [&](int64_t blocks) {
    return compress(source, scratch / "out", recipe, text, {}, nullptr, testing::registry(), &*journal, blocks);
  };
  ASSERT_FALSE(run(1).ok());
  const auto resumed = run(INT64_MAX);
  ASSERT_TRUE(resumed.ok()) << resumed.status().message();
  for (const std::string name : {"config.json", "model.safetensors"}) {
    EXPECT_TRUE(testing::contents(scratch / "out" / name) == testing::contents(scratch / "whole" / name)) << name;
  }
}

TEST(Repair, NeedsText) {
  Scratch scratch;
  pass::Recipe recipe = testing::recipe_of("int4-g32", "rtn");
  recipe.repair = 0.05;
  const auto refused = compress(kTiny / "glm", scratch / "out", recipe, {});
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace autoglm::quant
