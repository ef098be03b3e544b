/// Runs that are interrupted and go on by the journal.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>

#include "compress/quant/pipeline_testing.h"

namespace autoglm::quant {
namespace {

using testing::compress;
using testing::kTiny;
using testing::random_tokens;
using testing::Scratch;

struct Interrupted {
  std::string family, scheme, method;
  std::string override_with = "";  ///< of the second layer's MLP
};
void PrintTo(const Interrupted& run, std::ostream* out) {
  *out << run.family << " " << run.scheme << " " << run.method;
}

std::map<std::string, std::string> files_of(const std::filesystem::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    out[entry.path().filename().string()] = testing::contents(entry.path());
  }
  return out;
}

class ResumedCase : public ::testing::TestWithParam<Interrupted> {};
INSTANTIATE_TEST_SUITE_P(Tiny, ResumedCase,
                         ::testing::Values(Interrupted{"glm4", "int4-g32", "gptq"},
                                           Interrupted{"qwen2", "int3-g32", "awq"},
                                           Interrupted{"llama_biases", "int2-g32-asym", "awq+gptaq"},
                                           Interrupted{"chatglm", "w8a8-static", "smoothquant+gptq"},
                                           Interrupted{"glm4_moe", "int4-g32", "gptaq"},
                                           Interrupted{"qwen3", "int8-tensor", "gptq"},
                                           Interrupted{"glm", "int4-g32", "gptq", "bf16"}));

TEST_P(ResumedCase, GivesTheSameBytesAndStates) {
  const Interrupted& run = GetParam();
  Scratch scratch;
  const std::filesystem::path source = kTiny / run.family;
  pass::Recipe recipe = testing::recipe_of(run.scheme, run.method);
  if (!run.override_with.empty()) {
    recipe.overrides.push_back(pass::Recipe::parse_override("layers\\.1\\.mlp=" + run.override_with).value());
  }
  const auto text = random_tokens(8, 32, format::ModelConfig::load(source)->vocab_size, 1);
  const auto whole = compress(source, scratch / "whole", recipe, text);
  ASSERT_TRUE(whole.ok()) << whole.status().message();

  const auto out = scratch / "out";
  const int64_t layers = format::ModelConfig::load(source)->num_hidden_layers;
  const nlohmann::json identity = {{"seed", 1}};
  for (int64_t blocks = 1; blocks < layers; ++blocks) {
    const auto journal = pass::Journal::open(out, identity, true);
    ASSERT_TRUE(journal.ok()) << journal.status().message();
    EXPECT_EQ(journal->parts(), blocks - 1);
    const auto stopped = compress(source, out, recipe, text, {}, nullptr, testing::registry(), &*journal, blocks);
    ASSERT_EQ(stopped.status().code(), StatusCode::kCancelled) << stopped.status().message();
    EXPECT_FALSE(std::filesystem::exists(out));
    EXPECT_EQ(journal->parts(), blocks);
  }
  const auto journal = pass::Journal::open(out, identity, true);
  const auto resumed = compress(source, out, recipe, text, {}, nullptr, testing::registry(), &*journal);
  ASSERT_TRUE(resumed.ok()) << resumed.status().message();
  EXPECT_TRUE(at::equal(resumed->states, whole->states));
  const auto expected = files_of(scratch / "whole"), got = files_of(out);
  ASSERT_EQ(expected.size(), got.size());
  for (const auto& [name, bytes] : expected) EXPECT_TRUE(got.at(name) == bytes) << name;

  ASSERT_EQ(resumed->report.tensors.size(), whole->report.tensors.size());
  for (size_t i = 0; i < whole->report.tensors.size(); ++i) {
    const pass::TensorReport &a = whole->report.tensors[i], &b = resumed->report.tensors[i];
    EXPECT_TRUE(a.name == b.name && a.scheme == b.scheme && a.method == b.method && a.note == b.note &&
                a.mse == b.mse && a.cosine == b.cosine && a.output_error == b.output_error)
        << a.name;
  }
}

}  // namespace
}  // namespace autoglm::quant
