#include "compress/model/block.h"

#include <algorithm>
#include <map>
#include <set>

#include "compress/model/layers.h"
#include "compress/model/testing.h"

namespace autoglm::model {
namespace {

using format::Stage;

struct Tapped {
  Stage stage;
  std::vector<std::string> names;
  at::Tensor x;
};

/// A block of a tiny checkpoint with the hidden state that enters it.
struct Scene {
  Decoder decoder;
  Block block;
  at::Tensor hidden;
  Rotary rotary;

  Scene(const std::string& family, int64_t layer)
      : decoder(open_decoder(tiny_folder(family))),
        block(decoder.load_block(layer).value()),
        hidden(golden(family, "hidden." + std::to_string(layer))),
        rotary(decoder.rotary(hidden.size(1))) {}

  at::Tensor run(const ForwardOptions& options = {}) const {
    return forward(decoder.config(), block, rotary, hidden, options);
  }
  std::vector<Tapped> taps(std::optional<Stage> stop_after = std::nullopt) const {
    std::vector<Tapped> seen;
    ForwardOptions options;
    options.stop_after = stop_after;
    options.tap = [&](Stage stage, const std::vector<const Linear*>& linears, const at::Tensor& x) {
      Tapped tapped{stage, {}, x.clone()};
      for (const Linear* linear : linears) tapped.names.push_back(linear->spec.name);
      seen.push_back(std::move(tapped));
    };
    const at::Tensor out = run(options);
    EXPECT_EQ(out.defined(), !stop_after.has_value());
    return seen;
  }
};

class BlockTest : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Tiny, BlockTest, testing::ValuesIn(kTinyFamilies),
                         [](const auto& info) { return info.param; });

TEST_P(BlockTest, TapsSeeEveryLinearOnceWithTheInputThatItMultiplies) {
  Scene scene(GetParam(), 1);
  const std::vector<Tapped> taps = scene.taps();
  std::multiset<std::string> tapped, all;
  for (const Tapped& tap : taps) {
    EXPECT_EQ(tap.x.dim(), 2);
    tapped.insert(tap.names.begin(), tap.names.end());
  }
  for (const Stage stage : format::kStages) {
    for (const Linear* linear : scene.block.linears(stage)) {
      EXPECT_EQ(format::stage_of(linear->spec.role), stage);
      all.insert(linear->spec.name);
    }
  }
  // An expert that was given no token is the only one that may be missing.
  for (const std::string& name : tapped) EXPECT_EQ(tapped.count(name), 1u) << name;
  for (const std::string& name : all)
    EXPECT_TRUE(tapped.contains(name) || name.find(".experts.") != std::string::npos) << name;

  const at::Tensor x = rms_norm(scene.hidden, scene.block.input_norm, scene.decoder.config().rms_norm_eps);
  EXPECT_EQ(taps[0].stage, Stage::kQkv);
  EXPECT_EQ(taps[0].names.size(), scene.block.qkv.size());
  EXPECT_TRUE(taps[0].x.equal(x.flatten(0, 1)));
  EXPECT_EQ(taps[1].stage, Stage::kO);

  // The output projection's input, seen from the other side: with it the block computes what Hugging Face does.
  at::Tensor mixed = scene.block.o(taps[1].x).view(scene.hidden.sizes());
  const double eps = scene.decoder.config().rms_norm_eps;
  if (scene.block.post_attention_norm.defined()) mixed = rms_norm(mixed, scene.block.post_attention_norm, eps);
  const at::Tensor middle = scene.hidden + mixed;
  const at::Tensor normed = rms_norm(middle, scene.block.mlp_norm, eps).flatten(0, 1);
  if (!scene.block.mlp) return;
  ASSERT_EQ(taps.size(), 4u);
  EXPECT_TRUE(taps[2].x.allclose(normed, 1e-5, 1e-6));
  at::Tensor out = scene.block.mlp->down(taps[3].x).view(scene.hidden.sizes());
  if (scene.block.post_mlp_norm.defined()) out = rms_norm(out, scene.block.post_mlp_norm, eps);
  EXPECT_LT(relative_error(middle + out, golden(GetParam(), "hidden.2")), 1e-5);
}

TEST_P(BlockTest, StopsAfterTheStageThatWasAskedFor) {
  const Scene scene(GetParam(), 2);
  const std::vector<Tapped> all = scene.taps();
  for (const Stage last : format::kStages) {
    std::vector<Tapped> wanted;
    std::copy_if(all.begin(), all.end(), std::back_inserter(wanted), [&](const Tapped& t) { return t.stage <= last; });
    const std::vector<Tapped> seen = scene.taps(last);
    ASSERT_EQ(seen.size(), wanted.size());
    for (size_t i = 0; i < seen.size(); ++i) {
      EXPECT_EQ(seen[i].names, wanted[i].names);
      EXPECT_TRUE(seen[i].x.equal(wanted[i].x));
    }
  }
}

TEST_P(BlockTest, CacheStepByStepGivesTheFullPass) {
  const Scene scene(GetParam(), 1);
  const at::Tensor whole = scene.run();
  LayerCache cache;
  ForwardOptions options;
  options.cache = &cache;
  std::vector<at::Tensor> parts;
  int64_t begin = 0;
  for (const int64_t tokens : {5, 1, 1, 4, 1, 12}) {  // pieces of one and of many tokens after others
    parts.push_back(
        forward(scene.decoder.config(), scene.block, scene.rotary, scene.hidden.narrow(1, begin, tokens), options));
    begin += tokens;
    EXPECT_EQ(cache.length, begin);
  }
  EXPECT_LT(relative_error(at::cat(parts, 1), whole), 1e-5);
}

TEST_P(BlockTest, PaddingChangesNothing) {
  const Scene scene(GetParam(), 1);
  const at::Tensor one = scene.hidden.narrow(0, 1, 1).narrow(1, 0, 9);
  const at::Tensor alone = forward(scene.decoder.config(), scene.block, scene.rotary, one);
  for (const int64_t left : {0, 3}) {
    const int64_t right = 3 - left;
    // Batched with a row of full length; the padding holds large values that must not leak.
    const int64_t width = one.size(2);
    const at::Tensor padded = at::cat({at::full({1, left, width}, 50.0), one, at::full({1, right, width}, -50.0)}, 1);
    const at::Tensor batch = at::cat({padded, scene.hidden.narrow(0, 0, 1).narrow(1, 0, 12)});
    ForwardOptions options;
    options.key_padding = at::ones({2, 12}, at::kBool);
    options.key_padding[0].narrow(0, 0, left).fill_(false);
    options.key_padding[0].narrow(0, 12 - right, right).fill_(false);
    options.positions = at::stack({(at::arange(12) - left).clamp_min(0), at::arange(12)});
    const at::Tensor out = forward(scene.decoder.config(), scene.block, scene.rotary, batch, options);
    EXPECT_LT(relative_error(out[0].narrow(0, left, 9), alone[0]), 1e-5) << left;
    EXPECT_TRUE(out.isfinite().all().item<bool>());
  }
}

TEST_P(BlockTest, CancelledWorkReturnsNothing) {
  CancelToken cancel;
  ForwardOptions options;
  options.cancel = &cancel;
  const Scene scene(GetParam(), 1);
  EXPECT_TRUE(scene.run(options).defined());
  cancel.cancel();
  EXPECT_FALSE(scene.run(options).defined());
}

TEST(Block, IsDifferentiable) {
  Scene scene("glm4_moe", 1);
  Linear& down = *scene.block.linears(Stage::kDown).back();
  down.weight.requires_grad_(true);
  scene.block.o.weight.requires_grad_(true);
  scene.run().square().sum().backward();
  EXPECT_GT(down.weight.grad().norm().item<double>(), 0);
  EXPECT_GT(scene.block.o.weight.grad().norm().item<double>(), 0);
}

TEST(Moe, ExpertsSeeTheirTokensAlone) {
  const Scene scene("glm4_moe", 1);
  const format::ModelConfig& config = scene.decoder.config();
  const std::vector<Tapped> taps = scene.taps();
  at::Tensor x;  // the shared expert sees all tokens
  for (const Tapped& tap : taps) {
    if (tap.stage == Stage::kGateUp && tap.names[0].find("shared_experts") != std::string::npos) x = tap.x;
  }
  ASSERT_TRUE(x.defined());
  const Routing routing = route(config, *scene.block.moe, x);
  EXPECT_EQ(routing.experts.size(1), config.num_experts_per_tok);
  int64_t pairs = 0;
  for (const Tapped& tap : taps) {
    const size_t at = tap.names[0].find(".experts.");
    if (tap.stage != Stage::kGateUp || at == std::string::npos) continue;
    ASSERT_EQ(tap.names.size(), 2u);
    const int64_t expert = std::stoll(tap.names[0].substr(at + 9));
    const at::Tensor mine = (routing.experts == expert).any(1).nonzero().flatten();
    EXPECT_TRUE(tap.x.equal(x.index_select(0, mine))) << expert;
    pairs += tap.x.size(0);
  }
  EXPECT_EQ(pairs, x.size(0) * config.num_experts_per_tok);
}

/// A router whose scores are given: the router multiplies the identity.
Routing route_scores(const format::ModelConfig& config, const at::Tensor& scores, const at::Tensor& correction) {
  Moe moe;
  moe.router = at::eye(scores.size(1));
  moe.correction = correction;
  return route(config, moe, scores.logit());
}

TEST(Moe, CorrectionChoosesButDoesNotWeigh) {
  format::ModelConfig config;
  config.num_experts_per_tok = 2;
  config.norm_topk_prob = false;
  config.routed_scaling_factor = 2.0;
  const at::Tensor scores = at::tensor({0.9, 0.5, 0.4, 0.1}, at::kFloat).view({1, 4});
  const Routing plain = route_scores(config, scores, at::zeros({4}));
  EXPECT_TRUE(std::get<0>(plain.experts.sort()).equal(at::tensor({0, 1}, at::kLong).view({1, 2})));
  const Routing corrected = route_scores(config, scores, at::tensor({0.0, 0.0, 0.0, 1.0}, at::kFloat));
  const auto [experts, order] = corrected.experts.sort();
  EXPECT_TRUE(experts.equal(at::tensor({0, 3}, at::kLong).view({1, 2})));
  EXPECT_TRUE(corrected.weights.gather(1, order).allclose(at::tensor({1.8, 0.2}, at::kFloat).view({1, 2})));
  config.norm_topk_prob = true;
  EXPECT_NEAR(route_scores(config, scores, at::zeros({4})).weights.sum().item<double>(), 2.0, 1e-6);
}

TEST(Moe, GroupsCountByTheirTwoBest) {
  format::ModelConfig config;
  config.num_experts_per_tok = 2;
  config.n_group = 2;
  config.topk_group = 1;
  // The best single expert stands in group 0, the better pair in group 1.
  const at::Tensor scores = at::tensor({0.9, 0.1, 0.1, 0.6, 0.2, 0.7}, at::kFloat).view({1, 6});
  const Routing routing = route_scores(config, scores, at::zeros({6}));
  EXPECT_TRUE(std::get<0>(routing.experts.sort()).equal(at::tensor({3, 5}, at::kLong).view({1, 2})));
}

TEST(Rotary, GeneralWayEqualsTheComplexProduct) {
  format::ModelConfig config;
  config.rotary_dim = 8;
  const Rotary rotary = Rotary::build(config, 6, at::kCPU);
  const at::Tensor cos = rotary.cos.view({1, 6, 1, 4}), sin = rotary.sin.view({1, 6, 1, 4});
  at::manual_seed(5);
  const at::Tensor x = at::randn({2, 6, 3, 12});
  at::Tensor fast = x.clone(), general = x.to(at::kDouble);
  rotate(fast, cos, sin, format::RotaryLayout::kInterleaved);
  rotate(general, cos, sin, format::RotaryLayout::kInterleaved);
  EXPECT_TRUE(fast.allclose(general.to(at::kFloat), 1e-5, 1e-6));
  EXPECT_TRUE(fast.narrow(-1, 8, 4).equal(x.narrow(-1, 8, 4)));  // what is not rotated stays
  EXPECT_FALSE(fast.allclose(x));
}

}  // namespace
}  // namespace autoglm::model
