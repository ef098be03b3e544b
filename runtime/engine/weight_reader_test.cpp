#include "runtime/engine/weight_reader.h"

#include <gmock/gmock.h>

#include "runtime/engine/artifact_testing.h"

namespace autoglm::engine {
namespace {

using testing::HasSubstr;

class ArtifactTest : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Kinds, ArtifactTest, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(ArtifactTest, LogitsAreThoseOfTheDequantizedWeights) {
  const Artifact artifact(GetParam().family, GetParam().quantization);
  const std::vector<float> expected = logits_of(artifact.floats.path(), GetParam().family);
  EXPECT_LT(relative_error(logits_of(artifact.quantized.path(), GetParam().family), expected), 2e-5);
  const std::vector<float> original = golden(GetParam().family, "logits");
  EXPECT_GT(relative_error(expected, std::span(original).first(expected.size())), 1e-4);  // something was rounded
}

TEST_P(ArtifactTest, Int8ComputeStaysClose) {
  const Artifact artifact(GetParam().family, GetParam().quantization);
  const std::vector<float> expected = logits_of(artifact.floats.path(), GetParam().family);
  const std::vector<float> found = logits_of(artifact.quantized.path(), GetParam().family, kernels::Compute::kInt8);
  // Rounding may send a token of a random mixture of experts to another expert.
  EXPECT_LT(relative_error(found, expected), GetParam().family.starts_with("glm4_moe") ? 0.2 : 0.03);
  EXPECT_GT(relative_error(found, expected), 1e-5);  // it was computed in int8
}

TEST(QuantizedInput, W8A8ComputesInInt8WhateverIsAsked) {
  nlohmann::ordered_json activations = weights(8, true, "token");
  activations["dynamic"] = true;
  const Artifact artifact("glm4", w8a8(activations));
  const std::vector<float> found = logits_of(artifact.quantized.path(), "glm4");
  EXPECT_EQ(found, logits_of(artifact.quantized.path(), "glm4", kernels::Compute::kInt8));
  const double error = relative_error(found, logits_of(artifact.floats.path(), "glm4"));
  EXPECT_GT(error, 1e-4);
  EXPECT_LT(error, 0.03);
}

TEST(QuantizedInput, OtherSchemesAreRoundedToo) {
  nlohmann::ordered_json activations = weights(8, false, "token");
  activations["dynamic"] = true;
  const Artifact asymmetric("glm4", w8a8(activations));
  const std::vector<float> expected = logits_of(asymmetric.floats.path(), "glm4");
  double error = relative_error(logits_of(asymmetric.quantized.path(), "glm4"), expected);
  EXPECT_GT(error, 1e-4);
  EXPECT_LT(error, 0.03);

  activations = weights(8, true, "tensor");
  activations["dynamic"] = false;  // the artifact's input_scale: 0.05
  const Artifact fixed("glm4", w8a8(activations));
  error = relative_error(logits_of(fixed.quantized.path(), "glm4"), expected);
  EXPECT_GT(error, 1e-3);
  EXPECT_LT(error, 0.2);
}

Status refusal(const std::filesystem::path& folder) {
  kernels::ThreadPool pool(1);
  auto opened = Weights::open(folder);
  Status status = opened.ok() ? Model::load(std::move(*opened), pool).status() : opened.status();
  EXPECT_EQ(status.code(), StatusCode::kBadInput);
  EXPECT_EQ(status.message().find('\n'), std::string::npos);
  return status;
}

TEST(QuantizedInput, WhatDependsOnTheBatchIsRefused) {
  nlohmann::ordered_json activations = weights(8, true, "tensor");
  activations["dynamic"] = true;
  const Artifact artifact("glm4", w8a8(activations));
  EXPECT_THAT(refusal(artifact.quantized.path()).message(), HasSubstr("group_0"));
  activations["dynamic"] = false;
  const Artifact incomplete("glm4", w8a8(activations));
  ScratchFolder copy(incomplete.quantized.path());
  std::string bytes = must(format::read_text_file(copy.path() / "model.safetensors"));
  bytes.replace(bytes.find("input_scale"), 11, "input_scalf");
  std::ofstream(copy.path() / "model.safetensors", std::ios::binary) << bytes;
  EXPECT_THAT(refusal(copy.path()).message(), HasSubstr("input_scale"));
}

TEST(Model, ForeignQuantizationIsNamed) {
  const ScratchFolder copy(tiny_folder("glm4"));
  copy.edit_config("{", R"({"quantization_config": {"quant_method": "awq", "bits": 4},)");
  EXPECT_THAT(refusal(copy.path()).message(), HasSubstr("awq"));
}

TEST(Model, WrongFilesGetOneClearLine) {
  EXPECT_THAT(refusal("/nonexistent").message(), HasSubstr("/nonexistent"));
  {
    const ScratchFolder copy(tiny_folder("llama"));
    copy.edit_config("\"intermediate_size\": 256", "\"intermediate_size\": 272");
    EXPECT_THAT(refusal(copy.path()).message(), HasSubstr("has shape"));
  }
  {
    const ScratchFolder copy(tiny_folder("llama"));
    std::filesystem::resize_file(copy.path() / "model.safetensors",
                                 std::filesystem::file_size(copy.path() / "model.safetensors") - 4);
    EXPECT_THAT(refusal(copy.path()).message(), HasSubstr("model.safetensors"));
  }
  {
    const Artifact artifact("llama", config(linear(weights(4, true, "group", 32))));
    std::string bytes = must(format::read_text_file(artifact.quantized.path() / "model.safetensors"));
    bytes.replace(bytes.find("q_proj.weight_scale"), 19, "q_proj.weight_scalf");
    std::ofstream(artifact.quantized.path() / "model.safetensors", std::ios::binary) << bytes;
    EXPECT_THAT(refusal(artifact.quantized.path()).message(), HasSubstr("q_proj.weight_scale' is missing"));
  }
}

TEST(Model, PredictsItsBytes) {
  const Artifact artifact("glm4", config(linear(weights(4, true, "group", 32))));
  const WeightReader reader = must(WeightReader::open(artifact.quantized.path()));
  const Weights::Bytes bytes = must(reader.bytes());
  EXPECT_GT(bytes.packed, 0);
  EXPECT_EQ(bytes.mapped, 2 * 320 * 128 * 4);  // embedding and head
  int64_t packed = 0, mapped = 0;
  kernels::ThreadPool pool(2);
  const auto model = must(Model::load(must(Weights::open(artifact.quantized.path())), pool));
  const auto count = [&](const std::vector<Linear>& linears) {
    for (const Linear& one : linears) {
      (one.weight.is_quantized() ? packed : mapped) += static_cast<int64_t>(one.weight.bytes().size());
    }
  };
  for (const Block& block : model->blocks()) {
    EXPECT_EQ(block.qkv.size(), 1u);  // joined
    for (const auto* linears : {&block.qkv, &block.o, &block.mlp->gate_up, &block.mlp->down}) count(*linears);
  }
  count(model->head());
  mapped += reader.stored().weight_bytes(reader.stored().embedding());
  EXPECT_EQ(mapped, bytes.mapped);
  EXPECT_LE(std::abs(packed - bytes.packed), 3 * 4 * 256);  // joining saves some padding
}

TEST(Model, LoadingCanBeCancelled) {
  const Artifact artifact("glm4", config(linear(weights(4, true, "group", 32))));
  CancelToken cancel;
  cancel.cancel();
  kernels::ThreadPool pool(2);
  EXPECT_EQ(Model::load(must(Weights::open(artifact.quantized.path())), pool, &cancel).status().code(),
            StatusCode::kCancelled);
}

}  // namespace
}  // namespace autoglm::engine
