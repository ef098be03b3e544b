/// Recipes that fold scales before rounding: from a checkpoint to a written folder and back.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compress/quant/pipeline_testing.h"
#include "compress/quant/trained.h"
#include "core/eval/weight_diff.h"
#include "core/format/folds.h"
#include "core/format/rewrite.h"

namespace autoglm::quant {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): this room's own helpers
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// Scales at random in every fold there is.
class RandomScales : public pass::Smoother {
 public:
  std::string_view name() const override { return "random"; }
  bool folds(format::FoldKind) const override { return true; }
  calibrate::Needs needs() const override { return {.moments = true}; }
  Status run(pass::FoldTarget& target, CancelToken&) override {
    const auto generator = at::detail::createCPUGenerator(static_cast<uint64_t>(target.channels));
    target.scales = target.storable(at::exp(0.4 * at::randn({target.channels}, generator, at::kFloat)));
    target.note = "random scales";
    return ok_status();
  }
  int64_t working_bytes(int64_t, int64_t) const override { return 0; }
  double flops(int64_t, int64_t) const override { return 0; }
};

pass::Registry with_random_scales() {
  pass::Registry all;
  register_quantizers(all);
  all.add_smoother("random", [](const nlohmann::json&) -> Result<std::unique_ptr<pass::Smoother>> {
    return std::unique_ptr<pass::Smoother>(std::make_unique<RandomScales>());
  });
  return all;
}

at::Tensor states_of_folder(const fs::path& folder, const eval::Tokens& tokens) {
  const model::Decoder decoder = model::Decoder::open(folder).value();
  at::Tensor hidden = decoder.embed(tokens).value();
  const model::Rotary rotary = decoder.rotary(hidden.size(1));
  for (int64_t layer = 0; layer < decoder.config().num_hidden_layers; ++layer) {
    hidden = model::forward(decoder.config(), decoder.load_block(layer).value(), rotary, hidden);
  }
  return hidden[0];
}

double distance(const at::Tensor& actual, const at::Tensor& expected) {
  return (actual - expected).norm().item<double>() / expected.norm().item<double>();
}

eval::WeightDiff difference(const fs::path& source, const fs::path& written) {
  CancelToken never;
  const auto a = format::StoredModel::open(source), b = format::StoredModel::open(written);
  auto diff = eval::compare_weights(*a, *b, {}, never);
  EXPECT_TRUE(diff.ok()) << diff.status().message();
  return std::move(diff).value();
}

class Smoothed : public ::testing::TestWithParam<std::string> {
 protected:
  fs::path source() const { return GetParam() == "demo" ? kDemo : kTiny / GetParam(); }
  std::vector<eval::Tokens> calibration() const {
    return random_tokens(8, 40, format::ModelConfig::load(source())->vocab_size, 1);
  }
};

std::vector<std::string> all_models() {
  std::vector<std::string> all = format::tiny_families();
  all.push_back("demo");
  return all;
}
INSTANTIATE_TEST_SUITE_P(Families, Smoothed, ::testing::ValuesIn(all_models()),
                         [](const auto& info) { return info.param; });

TEST_P(Smoothed, IsWrittenReadBackAndCloseToItsSource) {
  if (GetParam() == "demo") GTEST_SKIP() << "tests/cli measures it";
  const auto tokens = calibration();
  const at::Tensor expected = states_of_folder(source(), tokens[0]);
  for (const auto& [scheme, method] :
       {std::pair{"int4-g32", "awq"}, {"w8a8", "smoothquant"}, {"int4-g32", "awq+gptaq"}}) {
    SCOPED_TRACE(std::string(scheme) + " " + method);
    Scratch scratch;
    pass::Recipe recipe = recipe_of(scheme, method);
    recipe.bias_correction = false;  // biases are compared below
    const auto done = compress(source(), scratch / "out", recipe, tokens);
    ASSERT_TRUE(done.ok()) << done.status().message();
    EXPECT_EQ(done->report.bytes_written, done->plan.bytes_after);
    const at::Tensor actual = states_of_folder(scratch / "out", tokens[0]);
    EXPECT_LT(distance(actual, expected), 0.5);
    EXPECT_LT(distance(done->states, actual), scheme == std::string("w8a8") ? 0.02 : 1e-5);

    const eval::WeightDiff diff = difference(source(), scratch / "out");
    EXPECT_THAT(diff.changed, IsEmpty());  // norms, routers and biases are the source's again
    EXPECT_THAT(diff.extra, IsEmpty());
    for (const eval::TensorDiff& tensor : diff.tensors) EXPECT_GT(tensor.cosine, 0.9) << tensor.name;
    for (const pass::TensorReport& tensor : done->report.tensors) {
      const bool reached = tensor.note.find("no calibration") == std::string::npos;
      const bool folded =
          tensor.note.find(" α ") != std::string::npos || tensor.note.find("no scales") != std::string::npos;
      const bool norms_alone = method == std::string("smoothquant");
      const bool behind = tensor.name.ends_with("o_proj") || tensor.name.ends_with("down_proj");
      if (!reached) continue;
      EXPECT_EQ(folded, !norms_alone || !behind) << tensor.name << ": " << tensor.note;
    }
  }
}

TEST_P(Smoothed, AnyScalesAndWeightsThatAreKeptLoseNothingButByRounding) {
  const pass::Registry methods = with_random_scales();
  const auto tokens = calibration();
  pass::Recipe recipe = recipe_of("int8", "random+rtn");
  recipe.ignore = {"layers\\.1\\.self_att.*", "layers\\.0\\..*down_proj"};
  Scratch scratch;
  const auto done = compress(source(), scratch / "out", recipe, tokens, {}, nullptr, methods);
  ASSERT_TRUE(done.ok()) << done.status().message();
  const auto written = format::StoredModel::open(scratch / "out");
  const auto folds = format::Folds::read(scratch / "out", written->layout, written->config);
  ASSERT_TRUE(folds.ok()) << folds.status().message();
  EXPECT_FALSE(folds->empty());
  const eval::WeightDiff diff = difference(source(), scratch / "out");
  EXPECT_THAT(diff.changed, IsEmpty());
  for (const eval::TensorDiff& tensor : diff.tensors) EXPECT_GT(tensor.cosine, 0.998) << tensor.name;
  EXPECT_LT(distance(states_of_folder(scratch / "out", tokens[0]), states_of_folder(source(), tokens[0])), 0.2);
}

TEST(Smoothing, GivesTheSameBytesAgain) {
  Scratch scratch;
  const auto tokens = random_tokens(6, 32, 320, 4);
  for (const std::string name : {"a", "b"}) {
    ASSERT_TRUE(compress(kTiny / "glm4_moe", scratch / name, recipe_of("int4-g32", "awq"), tokens).ok());
  }
  for (const std::string file : {"model.safetensors", format::Folds::kFile}) {
    EXPECT_EQ(contents(scratch / "a" / file), contents(scratch / "b" / file)) << file;
    EXPECT_FALSE(contents(scratch / "a" / file).empty());
  }
}

TEST(Smoothing, TrainingFindsTheWeightsThatWereFolded) {
  for (const char* family : {"chatglm", "glm4"}) {
    Scratch scratch;
    const auto tokens = random_tokens(6, 32, 320, 4);
    ASSERT_TRUE(compress(kTiny / family, scratch / "out", recipe_of("int8", "random+rtn"), tokens, {}, nullptr,
                         with_random_scales())
                    .ok());
    const model::Decoder source = model::Decoder::open(kTiny / family).value();
    const model::Decoder staged = model::Decoder::open(scratch / "out").value();
    Original original{&source, {}};
    const auto off = [&](const format::ModuleSpec& module) {
      return distance(original.weight(module).value(), staged.load_weight(module, at::kFloat).value());
    };
    for (const bool folded : {false, true}) {
      if (folded) original.folds = format::Folds::read(scratch / "out", staged.layout(), staged.config()).value();
      for (const format::ModuleSpec* module : staged.layout().block(0)) {
        if (!format::stage_of(module->role)) continue;
        EXPECT_EQ(off(*module) < 0.02, folded) << module->name;
      }
    }
  }
}

TEST(Smoothing, MethodWords) {
  const auto word = [](std::string_view text) { return registry().parse(text); };
  EXPECT_EQ(word("awq")->smoother, "awq");
  EXPECT_EQ(word("awq")->pass, "awq");
  EXPECT_EQ(word("smoothquant")->pass, "rtn");
  EXPECT_EQ(word("awq+gptq")->pass, "gptq");
  EXPECT_EQ(word("gptq")->smoother, "");
  EXPECT_EQ(word("")->pass, "");
  const auto refused = [&](std::string_view text, const std::string& part) {
    const auto parsed = word(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_EQ(parsed.status().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(parsed.status().message(), HasSubstr(part)) << text;
  };
  refused("awk", "awq");
  refused("smothquant+gptq", "smoothquant");
  refused("awq+gptqa", "gptq");
  refused("awq+", "unknown method ''");
  refused("awq+smoothquant", "both choose scales");
  refused("awq+awq", "both choose scales");
  refused("gptq+rtn", "both round");
  refused("awq+gptq+gptaq", "both round");
}

TEST(Smoothing, RefusesWhatItCannotDo) {
  Scratch scratch;
  const auto tokens = random_tokens(2, 16, 320, 4);
  const auto refused = [&](const pass::Recipe& recipe, const std::vector<eval::Tokens>& text, const std::string& part) {
    const auto done = compress(kTiny / "glm4", scratch / "out", recipe, text);
    ASSERT_FALSE(done.ok()) << part;
    EXPECT_EQ(done.status().code(), StatusCode::kInvalidArgument) << done.status().message();
    EXPECT_THAT(done.status().message(), HasSubstr(part));
  };
  refused(recipe_of("int4-g32", "awq"), {}, "method 'awq' needs calibration text");
  refused(recipe_of("int4-g32", "smoothquant"), {}, "method 'smoothquant' needs calibration text");
  refused(recipe_of("bf16", "awq"), tokens, "no block gets any");
  pass::Recipe overridden = recipe_of("int4-g32", "rtn");
  overridden.overrides = {pass::Recipe::parse_override("o_proj=int8:smoothquant").value()};
  refused(overridden, tokens, "unknown method 'smoothquant'");
  pass::Recipe options = recipe_of("int4-g32", "smoothquant");
  options.methods = {{"smoothquant", {{"strength", 2}}}};
  refused(options, tokens, "strength must be in [0, 1]");
}

TEST(Smoothing, RefusesCalibrationThatOverflows) {
  Scratch scratch;
  fs::copy(kTiny / "glm4", scratch / "model", fs::copy_options::recursive);
  for (const auto& file : fs::directory_iterator(scratch / "model")) fs::permissions(file, fs::perms::owner_all);
  {
    const auto stored = format::StoredModel::open(scratch / "model").value();
    const format::ModuleSpec& norm = *stored.layout.find(format::Role::kMlpNorm, 1);
    const std::vector<float> huge(static_cast<size_t>(norm.shape[0]), 3e38F);
    ASSERT_TRUE(format::rewrite_tensor(stored.checkpoint, norm.weight_name(), std::as_bytes(std::span(huge))).ok());
  }
  for (const std::string method : {"awq", "smoothquant"}) {
    const auto done =
        compress(scratch / "model", scratch / "out", recipe_of("int4-g32", method), random_tokens(4, 16, 320, 4));
    EXPECT_EQ(done.status().code(), StatusCode::kBadInput);
    EXPECT_THAT(done.status().message(), AllOf(HasSubstr("calibration gave NaN"), HasSubstr("layers.1.mlp")));
    EXPECT_FALSE(fs::exists(scratch / "out"));
  }
}

}  // namespace
}  // namespace autoglm::quant
