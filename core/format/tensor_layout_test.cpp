#include "core/format/tensor_layout.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>

#include "core/format/testing.h"
#include "core/format/tiny_models.h"

namespace autoglm::format {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;
namespace fs = std::filesystem;

/// Writes one model.safetensors of F32 (or other) tensors without reading any golden file.
class TinyFolder {
 public:
  struct Tensor {
    DType dtype;
    Shape shape;
    char fill = 0;
  };
  TinyFolder() {
    path_ = fs::temp_directory_path() / fmt::format("autoglm-layout-{}-{}", ::getpid(), counter++);
    fs::create_directories(path_);
  }
  ~TinyFolder() { fs::remove_all(path_); }

  std::map<std::string, Tensor> tensors;

  void put(const std::string& name, const Shape& shape, char fill = 0) { tensors[name] = {DType::kF32, shape, fill}; }
  /// Every tensor of `layout`.
  void put_all(const TensorLayout& layout) {
    for (const ModuleSpec& m : layout.modules()) {
      put(m.weight_name(), m.shape);
      if (m.has_bias) put(m.bias_name(), {m.shape[0]});
    }
  }
  void rename(const std::string& from, const std::string& to) {
    auto node = tensors.extract(from);
    node.key() = to;
    tensors.insert(std::move(node));
  }
  /// Replaces a leading `from` of every name by `to`.
  void rename_prefix(const std::string& from, const std::string& to) {
    std::map<std::string, Tensor> renamed;
    for (const auto& [name, t] : tensors) renamed[name.starts_with(from) ? to + name.substr(from.size()) : name] = t;
    tensors = std::move(renamed);
  }

  Checkpoint open() const {
    std::vector<StoredTensor> stored;
    for (const auto& [name, t] : tensors) {
      const auto size = static_cast<size_t>(*element_count(t.shape) * size_of(t.dtype));
      stored.push_back({name, t.dtype, t.shape, std::vector<std::byte>(size, std::byte(t.fill))});
    }
    std::ofstream(path_ / "model.safetensors", std::ios::binary) << safetensors_bytes(stored);
    auto checkpoint = Checkpoint::open(path_);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
    return std::move(checkpoint).value();
  }

 private:
  static inline int counter = 0;
  fs::path path_;
};

ModelConfig small(Family family) {
  nlohmann::ordered_json json = {
      {"model_type", to_string(family)}, {"vocab_size", 12},       {"hidden_size", 8},
      {"intermediate_size", 6},          {"num_hidden_layers", 3}, {"num_attention_heads", 2},
      {"num_key_value_heads", 1},        {"head_dim", 4}};
  if (family == Family::kGlm4v) json["rope_parameters"] = {{"mrope_section", {1, 1, 0}}};
  if (family == Family::kGlm4Moe) {
    json.update({{"n_routed_experts", 4}, {"num_experts_per_tok", 2}, {"moe_intermediate_size", 2}});
  }
  if (family == Family::kChatGlm) {
    json.update({{"padded_vocab_size", 12},
                 {"ffn_hidden_size", 6},
                 {"num_layers", 3},
                 {"kv_channels", 4},
                 {"multi_query_attention", true},
                 {"multi_query_group_num", 1},
                 {"add_qkv_bias", true}});
  }
  auto config = ModelConfig::parse(json.dump());
  EXPECT_TRUE(config.ok()) << config.status().message();
  return *config;
}

class EveryTinyModel : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryTinyModel, ResolvesToTheLayoutThatItsConfigDescribes) {
  const fs::path folder = kTiny / GetParam();
  auto config = ModelConfig::load(folder);
  ASSERT_TRUE(config.ok()) << config.status().message();
  auto checkpoint = Checkpoint::open(folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  auto layout = TensorLayout::resolve(*config, *checkpoint);
  ASSERT_TRUE(layout.ok()) << layout.status().message();

  const TensorLayout described = TensorLayout::describe(*config);
  ASSERT_EQ(layout->modules().size(), described.modules().size());
  for (size_t i = 0; i < described.modules().size(); ++i) {
    EXPECT_EQ(layout->modules()[i].name, described.modules()[i].name);
  }
  // Every tensor is a module's or another's, and the others are what this family carries.
  size_t named = 0;
  for (const ModuleSpec& m : layout->modules()) named += m.has_bias ? 2 : 1;
  const std::vector<std::string> others = layout->others(*checkpoint);
  EXPECT_EQ(named + others.size(), checkpoint->names().size());
  if (GetParam() == "glm4v") {
    EXPECT_THAT(others, AllOf(Each(StartsWith("model.visual.")), Not(IsEmpty())));
  } else if (GetParam() == "chatglm") {
    EXPECT_THAT(others, ElementsAre("transformer.rotary_pos_emb.inv_freq"));
  } else {
    EXPECT_THAT(others, IsEmpty());
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, EveryTinyModel, ::testing::ValuesIn(tiny_families()),
                         [](const auto& test) { return test.param; });

std::vector<std::string> roles(const std::vector<const ModuleSpec*>& modules) {
  std::vector<std::string> names;
  for (const ModuleSpec* m : modules) names.emplace_back(to_string(m->role));
  return names;
}

TEST(TensorLayout, ListsABlockInOrderOfUse) {
  EXPECT_THAT(roles(TensorLayout::describe(small(Family::kLlama)).block(2)),
              ElementsAre("input_norm", "q", "k", "v", "o", "mlp_norm", "gate", "up", "down"));
  EXPECT_THAT(roles(TensorLayout::describe(small(Family::kGlm4)).block(0)),
              ElementsAre("input_norm", "q", "k", "v", "o", "post_attention_norm", "mlp_norm", "gate_up", "down",
                          "post_mlp_norm"));
  EXPECT_THAT(roles(TensorLayout::describe(small(Family::kQwen3)).block(1)),
              ElementsAre("input_norm", "q", "k", "v", "q_norm", "k_norm", "o", "mlp_norm", "gate", "up", "down"));
  EXPECT_THAT(roles(TensorLayout::describe(small(Family::kChatGlm)).block(1)),
              ElementsAre("input_norm", "qkv", "o", "mlp_norm", "gate_up", "down"));

  const TensorLayout moe = TensorLayout::describe(small(Family::kGlm4Moe));
  EXPECT_THAT(roles(moe.block(0)), ElementsAre("input_norm", "q", "k", "v", "o", "mlp_norm", "gate", "up", "down"));
  const std::vector<const ModuleSpec*> block = moe.block(1);
  ASSERT_EQ(block.size(), 6U + 2 + 4 * 3 + 3);
  EXPECT_THAT(roles({block.begin() + 6, block.begin() + 11}),
              ElementsAre("router", "router_correction", "expert_gate", "expert_up", "expert_down"));
  EXPECT_THAT(roles({block.end() - 3, block.end()}), ElementsAre("shared_gate", "shared_up", "shared_down"));
  EXPECT_THAT(moe.block(3), IsEmpty());
  EXPECT_THAT(moe.block(-1), IsEmpty());
}

TEST(TensorLayout, FindsModulesByRoleLayerAndExpert) {
  const TensorLayout layout = TensorLayout::describe(small(Family::kGlm4Moe));
  EXPECT_EQ(layout.find(Role::kExpertDown, 2, 3)->name, "model.layers.2.mlp.experts.3.down_proj");
  EXPECT_EQ(layout.find(Role::kRouterCorrection, 1)->weight_name(), "model.layers.1.mlp.gate.e_score_correction_bias");
  EXPECT_EQ(layout.find(Role::kHead)->name, "lm_head");
  EXPECT_EQ(layout.find(Role::kExpertDown, 2, 4), nullptr);
  EXPECT_EQ(layout.find(Role::kGate, 1), nullptr);
  EXPECT_EQ(layout.modules().front().role, Role::kEmbedding);
  EXPECT_EQ(layout.modules().back().role, Role::kHead);
}

TEST(TensorLayout, KnowsWhichModulesAreLinearAndWhatSharesAnInput) {
  EXPECT_TRUE(is_linear(Role::kHead));
  EXPECT_TRUE(is_linear(Role::kSharedDown));
  EXPECT_FALSE(is_linear(Role::kEmbedding));
  EXPECT_FALSE(is_linear(Role::kRouter));
  EXPECT_EQ(stage_of(Role::kQkv), Stage::kQkv);
  EXPECT_EQ(stage_of(Role::kExpertUp), Stage::kGateUp);
  EXPECT_EQ(stage_of(Role::kHead), std::nullopt);
}

TEST(TensorLayout, FindsThePrefixThatTheCheckpointUses) {
  const struct {
    Family family;
    const char *from, *to;
  } cases[] = {{Family::kGlm4v, "model.language_model.", "model."},
               {Family::kGlm4v, "model.language_model.", "language_model.model."},
               {Family::kGlm4v, "model.language_model.", "language_model."},
               {Family::kGlm, "model.", "model.language_model."},
               {Family::kGlm, "model.", ""},
               {Family::kChatGlm, "transformer.", ""}};
  for (const auto& c : cases) {
    const ModelConfig config = small(c.family);
    TinyFolder folder;
    folder.put_all(TensorLayout::describe(config));
    folder.rename_prefix(c.from, c.to);
    if (std::string_view(c.to) == "language_model.model.") folder.rename_prefix("lm_head", "language_model.lm_head");
    const Checkpoint checkpoint = folder.open();
    auto layout = TensorLayout::resolve(config, checkpoint);
    ASSERT_TRUE(layout.ok()) << c.to << ": " << layout.status().message();
    EXPECT_THAT(layout->others(checkpoint), IsEmpty()) << c.to;
    EXPECT_THAT(layout->find(Role::kO, 1)->name,
                StartsWith(std::string(c.to) + (c.family == Family::kChatGlm ? "enc" : "lay")));
  }
}

TEST(TensorLayout, NamesTheMissingTensorAndTheWrongShape) {
  const ModelConfig config = small(Family::kGlm);
  TinyFolder folder;
  folder.put_all(TensorLayout::describe(config));
  const auto message = [&] {
    const auto layout = TensorLayout::resolve(config, folder.open());
    EXPECT_EQ(layout.status().code(), StatusCode::kBadInput);
    EXPECT_EQ(layout.status().message().find('\n'), std::string::npos);
    return layout.status().message();
  };
  folder.rename("model.layers.1.mlp.down_proj.weight", "spare");
  EXPECT_THAT(message(), AllOf(HasSubstr("'model.layers.1.mlp.down_proj.weight' is missing"), HasSubstr("[8, 6]")));
  folder.rename("spare", "model.layers.1.mlp.down_proj.weight");

  folder.put("model.layers.2.self_attn.k_proj.weight", {8, 8});
  EXPECT_THAT(message(), AllOf(HasSubstr("model.safetensors: tensor 'model.layers.2.self_attn.k_proj.weight'"),
                               HasSubstr("[8, 8]"), HasSubstr("[4, 8]")));
  folder.put("model.layers.2.self_attn.k_proj.weight", {4, 8});

  folder.put("model.layers.2.self_attn.k_proj.bias", {5});
  EXPECT_THAT(message(), HasSubstr("k_proj.bias' has shape [5], config.json asks for [4]"));
  folder.put("model.layers.2.self_attn.k_proj.bias", {4});

  folder.put("model.layers.2.self_attn.o_proj.bias", {8});
  EXPECT_THAT(message(), HasSubstr("'model.layers.2.self_attn.o_proj.bias' is stored"));
  folder.tensors.erase("model.layers.2.self_attn.o_proj.bias");

  folder.tensors["model.norm.weight"] = {DType::kI64, {8}};
  EXPECT_THAT(message(), HasSubstr("'model.norm.weight' has type I64"));
}

TEST(TensorLayout, TakesQuantizedModulesAsPresent) {
  const ModelConfig config = small(Family::kQwen3);
  TinyFolder folder;
  folder.put_all(TensorLayout::describe(config));
  const std::string packed = "model.layers.0.mlp.up_proj", integer = "model.layers.0.mlp.down_proj";
  folder.tensors.erase(packed + ".weight");
  folder.tensors[packed + ".weight_packed"] = {DType::kI32, {6, 1}};
  folder.put(packed + ".weight_scale", {6, 1});
  folder.tensors[integer + ".weight"] = {DType::kI8, {8, 6}};
  folder.put(integer + ".weight_scale", {8, 1});
  const std::string embedding = "model.embed_tokens";
  folder.tensors.erase(embedding + ".weight");
  folder.tensors[embedding + ".weight_packed"] = {DType::kI32, {12, 2}};
  const Checkpoint checkpoint = folder.open();
  auto layout = TensorLayout::resolve(config, checkpoint);
  ASSERT_TRUE(layout.ok()) << layout.status().message();
  EXPECT_THAT(layout->others(checkpoint), IsEmpty());
  EXPECT_EQ(layout->find(Role::kUp, 0)->shape, (Shape{6, 8}));  // of the weight it stands for

  folder.tensors.erase(integer + ".weight_scale");  // integers alone are no weights
  EXPECT_THAT(TensorLayout::resolve(config, folder.open()).status().message(), HasSubstr("has type I8"));
}

TEST(TensorLayout, TiedEmbeddingsHaveNoHeadAndAStoredCopyIsTolerated) {
  ModelConfig config = small(Family::kLlama);
  config.tie_word_embeddings = true;
  TinyFolder folder;
  folder.put_all(TensorLayout::describe(config));
  EXPECT_EQ(folder.tensors.count("lm_head.weight"), 0U);
  ASSERT_TRUE(TensorLayout::resolve(config, folder.open()).ok());

  folder.put("lm_head.weight", {12, 8});
  const Checkpoint checkpoint = folder.open();
  auto layout = TensorLayout::resolve(config, checkpoint);
  ASSERT_TRUE(layout.ok()) << layout.status().message();
  EXPECT_EQ(layout->find(Role::kHead), nullptr);
  EXPECT_THAT(layout->others(checkpoint), IsEmpty());

  folder.put("lm_head.weight", {12, 8}, 1);
  EXPECT_THAT(TensorLayout::resolve(config, folder.open()).status().message(),
              AllOf(HasSubstr("'lm_head.weight' differs"), HasSubstr("tie_word_embeddings")));
}

TEST(TensorLayout, CarriesMtpLayersAndRefusesFusedExperts) {
  const ModelConfig config = small(Family::kGlm4Moe);
  TinyFolder folder;
  folder.put_all(TensorLayout::describe(config));
  folder.put("model.layers.3.eh_proj.weight", {8, 16});
  folder.put("model.layers.3.input_layernorm.weight", {8});
  const Checkpoint checkpoint = folder.open();
  auto layout = TensorLayout::resolve(config, checkpoint);
  ASSERT_TRUE(layout.ok()) << layout.status().message();
  EXPECT_THAT(layout->others(checkpoint), ::testing::UnorderedElementsAre("model.layers.3.eh_proj.weight",
                                                                          "model.layers.3.input_layernorm.weight"));

  ModelConfig mtp = config;
  mtp.num_nextn_predict_layers = 1;
  EXPECT_THAT(layout->surplus_layers(mtp, checkpoint), IsEmpty());
  mtp.num_nextn_predict_layers = 0;
  EXPECT_THAT(layout->surplus_layers(mtp, checkpoint), ElementsAre(3));

  folder.put("model.layers.1.mlp.experts.gate_up_proj", {4, 4, 8});
  EXPECT_THAT(
      TensorLayout::resolve(config, folder.open()).status().message(),
      AllOf(HasSubstr("'model.layers.1.mlp.experts.gate_up_proj' holds all experts"), HasSubstr("save_pretrained")));
}

}  // namespace
}  // namespace autoglm::format
