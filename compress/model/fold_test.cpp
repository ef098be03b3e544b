#include "compress/model/fold.h"

#include <ATen/CPUGeneratorImpl.h>

#include <set>

#include "compress/model/testing.h"

namespace autoglm::model {
namespace {

using format::FoldKind;
using format::FoldPoint;
using format::Role;

const std::filesystem::path kDemo = std::filesystem::path(AUTOGLM_SOURCE_DIR) / "models/glm-phone-demo";
constexpr double kBound = 1e-5;  // of logits in float32, where their own noise is about 1e-6

at::Tensor random_scales(int64_t channels, uint64_t seed) {
  return at::exp(at::randn({channels}, at::detail::createCPUGenerator(seed), at::kFloat));  // 0.02 to 50
}

at::Tensor prompt(const Decoder& decoder) {
  return at::randint(decoder.config().vocab_size, {2, 24}, at::detail::createCPUGenerator(7), at::kLong);
}

/// Logits with `change` made to every block.
at::Tensor logits_with(const Decoder& decoder, const std::function<void(Block&, int64_t)>& change) {
  const at::Tensor ids = prompt(decoder);
  at::Tensor states = decoder.embed(ids).value();
  const Rotary rotary = decoder.rotary(ids.size(1));
  for (int64_t layer = 0; layer < decoder.config().num_hidden_layers; ++layer) {
    Block block = decoder.load_block(layer).value();
    change(block, layer);
    states = forward(decoder.config(), block, rotary, states);
  }
  return decoder.logits(states.flatten(0, 1)).value();
}

class EveryModel : public testing::TestWithParam<std::string> {
 protected:
  Decoder open() const { return open_decoder(GetParam() == "demo" ? kDemo : tiny_folder(GetParam())); }
};

std::vector<std::string> models() {
  std::vector<std::string> all = kTinyFamilies;
  all.push_back("demo");
  return all;
}
INSTANTIATE_TEST_SUITE_P(Fold, EveryModel, testing::ValuesIn(models()), [](const auto& info) { return info.param; });

TEST_P(EveryModel, ComputesTheSameWithRandomScalesInEveryFold) {
  const Decoder decoder = open();
  const at::Tensor expected = logits_with(decoder, [](Block&, int64_t) {});
  for (const auto kind : {FoldKind::kInputNorm, FoldKind::kValue, FoldKind::kMlpNorm, FoldKind::kUp}) {
    int64_t folded = 0;
    const at::Tensor logits = logits_with(decoder, [&](Block& block, int64_t layer) {
      for (const FoldPoint& point : format::fold_points(decoder.layout(), decoder.config(), layer)) {
        if (point.kind != kind) continue;
        ++folded;
        // What is routed where must not turn on the last bit of a score.
        const bool routes = block.moe.has_value() && kind == FoldKind::kMlpNorm;
        const at::Tensor scales = random_scales(point.channels, static_cast<uint64_t>(layer + 10));
        fold(block, point, routes ? at::exp2(at::log2(scales).round()) : scales);
      }
    });
    EXPECT_GE(folded, decoder.config().num_hidden_layers);
    EXPECT_LT(relative_error(logits, expected), kBound) << to_string(kind);
  }
}

TEST_P(EveryModel, ComputesTheSameWithEveryFoldAtOnceAsAFileHoldsIt) {
  const Decoder decoder = open();
  const auto stored = [](const format::ModuleSpec& module) {
    return StoredAs{module.role == Role::kRouter ? std::optional(at::kBFloat16) : std::nullopt, at::kBFloat16};
  };
  // Routers, norms and biases of bfloat16 on either side.
  const auto round_kept = [](Block& block, int64_t) {
    const auto round = [](at::Tensor& x) {
      if (x.defined()) x = x.to(at::kBFloat16).to(at::kFloat);
    };
    if (block.moe) round(block.moe->router);
    for (const Role role : {Role::kInputNorm, Role::kMlpNorm}) round(block.*norm_member(role));
    for (const format::Stage stage : format::kStages) {
      for (Linear* linear : block.linears(stage)) round(linear->bias);
    }
  };
  const at::Tensor expected = logits_with(decoder, round_kept);
  const at::Tensor logits = logits_with(decoder, [&](Block& block, int64_t layer) {
    round_kept(block, layer);
    for (const FoldPoint& point : format::fold_points(decoder.layout(), decoder.config(), layer)) {
      const at::Tensor wanted = random_scales(point.channels, static_cast<uint64_t>(layer + 30));
      const at::Tensor scales = storable_scales(block, point, stored)(wanted);
      EXPECT_GT((scales != 1).sum().item<int64_t>(), point.channels / 2) << point.producer->name;
      EXPECT_LT((scales / wanted).log().abs().max().item<double>(), 0.5) << point.producer->name;
      fold(block, point, scales);
    }
    round_kept(block, layer);  // must change nothing
  });
  EXPECT_LT(relative_error(logits, expected), kBound);
}

TEST_P(EveryModel, FoldsIntoNormsValuesAndUpAlone) {
  const Decoder decoder = open();
  const format::ModelConfig& config = decoder.config();
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    std::set<std::string> consumers;
    for (const FoldPoint& point : format::fold_points(decoder.layout(), config, layer)) {
      const Role role = point.producer->role;
      EXPECT_TRUE(role == Role::kInputNorm || role == Role::kMlpNorm || role == Role::kV || role == Role::kQkv ||
                  role == Role::kUp || role == Role::kGateUp || role == Role::kExpertUp || role == Role::kSharedUp)
          << point.producer->name;
      for (const format::ModuleSpec* consumer : point.consumers) {
        EXPECT_EQ(consumer->shape[1], point.channels * point.copies) << consumer->name;
        EXPECT_TRUE(consumers.insert(consumer->name).second) << consumer->name << " is folded twice";
      }
    }
    for (const format::ModuleSpec* module : decoder.layout().block(layer)) {
      const bool reads = format::stage_of(module->role) || module->role == Role::kRouter;
      EXPECT_EQ(consumers.contains(module->name), reads) << module->name;
    }
  }
}

TEST(Fold, LeavesWhatCannotBeStoredAtOne) {
  const Decoder decoder = open_decoder(tiny_folder("glm4_moe"));
  Block block = decoder.load_block(2).value();
  ASSERT_TRUE(block.moe.has_value());
  block.mlp_norm[3] = 0;
  block.mlp_norm[4] = 6e-8;  // the smallest of fp16: cannot be divided
  block.mlp_norm = block.mlp_norm.to(at::kHalf).to(at::kFloat);
  block.moe->router[0][5] = 60000.0;  // near the largest of fp16: cannot be multiplied
  const std::vector<FoldPoint> points = format::fold_points(decoder.layout(), decoder.config(), 2);
  const FoldPoint& point =
      *std::find_if(points.begin(), points.end(), [](const FoldPoint& p) { return p.kind == FoldKind::kMlpNorm; });
  const auto storable = storable_scales(block, point, [](const format::ModuleSpec& module) {
    return StoredAs{module.role == Role::kRouter ? std::optional(at::kHalf) : std::nullopt, at::kHalf};
  });
  at::Tensor wanted = at::full({point.channels}, 3.0);
  wanted[0] = std::nan("");
  wanted[1] = INFINITY;
  wanted[2] = -1;
  const at::Tensor scales = storable(wanted);
  for (const int64_t i : {0, 1, 2, 3, 4, 5}) EXPECT_EQ(scales[i].item<float>(), 1) << i;
  EXPECT_EQ(scales[6].item<float>(), 4);  // the power of two nearest to 3
}

}  // namespace
}  // namespace autoglm::model
