#include "core/eval/weight_diff.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/eval/sizes.h"
#include "core/eval/test_folder.h"
#include "core/format/folds.h"
#include "core/format/testing.h"
#include "core/format/weight_rows.h"

namespace autoglm::eval {
namespace {

using format::DType;
using format::QuantArgs;
using format::QuantizedWeight;
using format::StoredTensor;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

format::StoredModel open_or_fail(const std::filesystem::path& folder) {
  auto model = format::StoredModel::open(folder);
  if (!model.ok()) ADD_FAILURE() << model.status().message();
  return std::move(model).value();
}

format::StoredModel tiny(const std::string& family) {
  return open_or_fail(std::string(AUTOGLM_SOURCE_DIR) + "/tests/data/tiny/" + family);
}

std::vector<StoredTensor> tensors_of(const format::StoredModel& model) {
  std::vector<StoredTensor> tensors;
  for (const std::string& name : model.checkpoint.names()) {
    const auto* info = model.checkpoint.find(name);
    const auto bytes = *model.checkpoint.bytes(name);
    tensors.push_back({name, info->dtype, info->shape, {bytes.begin(), bytes.end()}});
  }
  return tensors;
}

StoredTensor& named(std::vector<StoredTensor>& tensors, const std::string& name) {
  for (StoredTensor& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  throw std::out_of_range(name);
}

std::vector<float> floats(const StoredTensor& tensor) {
  std::vector<float> values(tensor.bytes.size() / sizeof(float));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

void write_model(const TestFolder& folder, const nlohmann::ordered_json& config,
                 const std::vector<StoredTensor>& tensors) {
  folder.write("config.json", config.dump());
  folder.write("model.safetensors", format::safetensors_bytes(tensors));
}

/// Plain rounding of a row-major matrix, good enough to have something to measure.
QuantizedWeight quantize(const std::vector<float>& w, int64_t rows, int64_t cols, const QuantArgs& args) {
  QuantizedWeight q{args, rows, cols, std::vector<int8_t>(w.size()), {}, {}, DType::kF32};
  const int64_t groups = args.groups(cols), width = cols / groups;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const float* row = w.data() + r * cols + g * width;
      float low = 0, high = 0;
      for (int64_t c = 0; c < width; ++c) low = std::min(low, row[c]), high = std::max(high, row[c]);
      const float scale = args.symmetric ? std::max(-low, high) / static_cast<float>(args.q_max())
                                         : (high - low) / static_cast<float>(args.q_max() - args.q_min());
      const int zero = args.symmetric ? 0 : static_cast<int>(std::lround(args.q_min() - low / scale));
      q.scales.push_back(scale);
      if (!args.symmetric) q.zero_points.push_back(static_cast<int8_t>(zero));
      for (int64_t c = 0; c < width; ++c) {
        const auto value = std::clamp<long>(std::lround(row[c] / scale) + zero, args.q_min(), args.q_max());
        q.values[static_cast<size_t>(r * cols + g * width + c)] = static_cast<int8_t>(value);
      }
    }
  }
  return q;
}

/// `tiny("glm")` with its o_proj matrices stored by `args`.
void write_quantized(const TestFolder& folder, const format::StoredModel& source, const QuantArgs& args,
                     const std::string& format) {
  format::QuantScheme scheme;
  scheme.targets = {"re:.*o_proj"};
  scheme.weights = args;
  format::QuantConfig quantization;
  quantization.config_groups.emplace_back("group_0", scheme);
  quantization.format = format;
  nlohmann::ordered_json config = source.config.raw;
  config["quantization_config"] = quantization.to_json();
  std::vector<StoredTensor> stored;
  for (const StoredTensor& tensor : tensors_of(source)) {
    if (tensor.name.find("o_proj.weight") == std::string::npos) {
      stored.push_back(tensor);
      continue;
    }
    const std::string module = tensor.name.substr(0, tensor.name.size() - std::string(".weight").size());
    const auto q = quantize(floats(tensor), tensor.shape[0], tensor.shape[1], args);
    for (StoredTensor& part : format::encode(q, module, format)) stored.push_back(std::move(part));
  }
  write_model(folder, config, stored);
}

class EveryFamily : public testing::TestWithParam<const char*> {};

TEST_P(EveryFamily, EqualsItself) {
  const format::StoredModel model = tiny(GetParam());
  CancelToken cancel;
  const auto diff = compare_weights(model, model, {}, cancel);
  ASSERT_TRUE(diff.ok()) << diff.status().message();
  EXPECT_THAT(diff->tensors, IsEmpty());
  EXPECT_THAT(diff->missing, IsEmpty());
  EXPECT_THAT(diff->extra, IsEmpty());
  EXPECT_THAT(diff->changed, IsEmpty());
  EXPECT_EQ(diff->identical, static_cast<int64_t>(model.checkpoint.names().size()));
  EXPECT_EQ(diff->compared_share, 1);

  const Sizes sizes = measure_sizes(model, &model);
  int64_t bytes = 0;
  for (const std::string& name : model.checkpoint.names()) bytes += model.checkpoint.find(name)->nbytes;
  EXPECT_EQ(sizes.tensor_bytes, bytes);
  EXPECT_EQ(sizes.parameters * 4, bytes);  // these checkpoints are float32 throughout
  EXPECT_EQ(sizes.ratio, 1);
  EXPECT_EQ(sizes.bits_per_weight, 32);
  EXPECT_EQ(sizes.ratio_16_bit, 0.5);
  EXPECT_EQ(sizes.quantized_parameters, 0);
  EXPECT_EQ(sizes.quantized_bits_per_weight, 0);
  EXPECT_EQ(model.describe(), "F32");
}

INSTANTIATE_TEST_SUITE_P(Tiny, EveryFamily,
                         testing::Values("chatglm", "glm", "glm4", "glm4_tied", "glm4v", "glm4_moe", "llama", "qwen2",
                                         "qwen3"));

/// A copy of "glm4" with scales folded into the MLP norm and the value rows of layer 0; with the file of folds or
/// without.
void write_folded(const TestFolder& folder, const format::StoredModel& source, bool with_file) {
  format::Folds folds;
  for (const format::FoldPoint& point : format::fold_points(source.layout, source.config, 0)) {
    if (point.kind != format::FoldKind::kMlpNorm && point.kind != format::FoldKind::kValue) continue;
    std::vector<float> scales(static_cast<size_t>(point.channels));
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = 0.3F + 0.17F * static_cast<float>(i % 11);
    folds.add(point, std::move(scales));
  }
  std::vector<StoredTensor> tensors = tensors_of(source);
  for (const format::ModuleSpec* module : source.layout.block(0)) {
    std::vector<std::string> names = {module->weight_name()};
    if (module->has_bias) names.push_back(module->bias_name());
    for (const std::string& name : names) {
      StoredTensor& tensor = named(tensors, name);
      std::vector<float> values = floats(tensor);
      folds.apply(module->name, 0, tensor.shape.size() == 2 ? tensor.shape[1] : 1, values);
      std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
    }
  }
  write_model(folder, source.config.raw, tensors);
  if (with_file) {
    ASSERT_TRUE(folds.write(folder.path()).ok());
  }
}

TEST(WeightDiff, TakesFoldedScalesOut) {
  const format::StoredModel source = tiny("glm4");
  CancelToken cancel;
  for (const bool with_file : {true, false}) {
    const TestFolder folder;
    write_folded(folder, source, with_file);
    const auto diff = compare_weights(source, open_or_fail(folder.path()), {}, cancel);
    ASSERT_TRUE(diff.ok()) << diff.status().message();
    EXPECT_EQ(diff->changed.empty(), with_file);
    EXPECT_EQ(diff->identical == static_cast<int64_t>(source.checkpoint.names().size()), with_file);
  }
}

TEST(WeightDiff, RefusesADamagedFileOfFolds) {
  const format::StoredModel source = tiny("glm4");
  const TestFolder folder;
  write_folded(folder, source, false);
  folder.write(format::Folds::kFile, "damaged");
  CancelToken cancel;
  const auto diff = compare_weights(source, open_or_fail(folder.path()), {}, cancel);
  ASSERT_FALSE(diff.ok());
  EXPECT_EQ(diff.status().code(), StatusCode::kBadInput);
  EXPECT_THAT(diff.status().message(), HasSubstr(format::Folds::kFile));
}

struct Storage {
  QuantArgs args;
  std::string format;
  std::string described;
};

class EveryStorage : public testing::TestWithParam<Storage> {};

TEST_P(EveryStorage, MeasuresWhatTheBytesSay) {
  const TestFolder folder;
  const format::StoredModel source = tiny("glm");
  write_quantized(folder, source, GetParam().args, GetParam().format);
  const format::StoredModel artifact = open_or_fail(folder.path());
  CancelToken cancel;
  const auto diff = compare_weights(source, artifact, {}, cancel);
  ASSERT_TRUE(diff.ok()) << diff.status().message();
  const auto layers = static_cast<size_t>(source.config.num_hidden_layers);
  ASSERT_EQ(diff->tensors.size(), layers);
  EXPECT_EQ(diff->identical, static_cast<int64_t>(source.checkpoint.names().size() - layers));
  EXPECT_THAT(diff->missing, IsEmpty());
  EXPECT_THAT(diff->extra, IsEmpty());
  EXPECT_THAT(diff->changed, IsEmpty());

  auto tensors = tensors_of(source);
  for (size_t layer = 0; layer < layers; ++layer) {
    const TensorDiff& tensor = diff->tensors[layer];
    EXPECT_EQ(tensor.name, "model.layers." + std::to_string(layer) + ".self_attn.o_proj");
    EXPECT_EQ(tensor.layer, static_cast<int64_t>(layer));
    EXPECT_EQ(tensor.role, format::to_string(format::Role::kO));
    EXPECT_EQ(tensor.scheme, GetParam().described);
    const StoredTensor& original = named(tensors, tensor.name + ".weight");
    const std::vector<float> w = floats(original);
    std::vector<float> v(w.size());
    format::dequantize(quantize(w, original.shape[0], original.shape[1], GetParam().args), v);
    double dd = 0, ww = 0, vv = 0, wv = 0;
    for (size_t i = 0; i < w.size(); ++i) {
      dd += (double{w[i]} - v[i]) * (double{w[i]} - v[i]);
      ww += double{w[i]} * w[i];
      vv += double{v[i]} * v[i];
      wv += double{w[i]} * v[i];
    }
    EXPECT_GT(dd, 0);
    EXPECT_NEAR(tensor.mse, dd / static_cast<double>(w.size()), 1e-12 * dd);
    EXPECT_NEAR(tensor.relative_mse, dd / ww, 1e-12);
    EXPECT_NEAR(tensor.cosine, wv / std::sqrt(ww * vv), 1e-12);
    EXPECT_EQ(tensor.compared, static_cast<int64_t>(w.size()));
  }

  const Sizes sizes = measure_sizes(artifact, &source);
  const int64_t weights = 3 * 128 * 128;
  EXPECT_EQ(sizes.quantized_parameters, weights);
  int64_t stored = 0;
  for (const std::string& name : artifact.checkpoint.names()) {
    if (name.find("o_proj") != std::string::npos) stored += artifact.checkpoint.find(name)->nbytes;
  }
  EXPECT_DOUBLE_EQ(sizes.quantized_bits_per_weight, 8.0 * static_cast<double>(stored) / static_cast<double>(weights));
  EXPECT_EQ(sizes.tensor_bytes, artifact.checkpoint.total_bytes());
  const auto attention = std::find_if(sizes.parts.begin(), sizes.parts.end(),
                                      [](const PartSize& part) { return part.part == "attention"; });
  ASSERT_NE(attention, sizes.parts.end());
  EXPECT_EQ(attention->source_bytes - attention->bytes, weights * 4 - stored);
  EXPECT_EQ(attention->scale_bytes > 0, true);
  EXPECT_GT(sizes.ratio, 1);
}

INSTANTIATE_TEST_SUITE_P(
    Formats, EveryStorage,
    testing::Values(Storage{{4, true, format::Strategy::kGroup, 32}, "pack-quantized", "INT4 g32 symmetric"},
                    Storage{{4, false, format::Strategy::kGroup, 32}, "pack-quantized", "INT4 g32 asymmetric"},
                    Storage{{8, true, format::Strategy::kChannel, 0}, "int-quantized", "INT8 channel symmetric"},
                    Storage{{3, true, format::Strategy::kChannel, 0}, "pack-quantized", "INT3 channel symmetric"}));

TEST(CompareWeights, MatchesSplitAndRenamedTensors) {
  const TestFolder folder;
  const format::StoredModel source = tiny("chatglm");
  const format::ModelConfig config = source.config.as_transformers();
  const auto layout = format::TensorLayout::describe(config);
  std::vector<StoredTensor> stored;
  for (const auto& module : layout.modules()) {
    for (const format::Member member : {format::Member::kWeight, format::Member::kBias}) {
      if (member == format::Member::kBias && !module.has_bias) continue;
      const format::WeightRows rows = format::WeightRows::matching(source, module, member);
      ASSERT_FALSE(rows.segments().empty()) << module.name;
      std::vector<float> values(static_cast<size_t>(rows.rows() * rows.cols()));
      ASSERT_TRUE(rows.read(0, rows.rows(), values).ok());
      const bool bias = member == format::Member::kBias;
      stored.push_back(format::stored(bias ? module.bias_name() : module.weight_name(), DType::kF32,
                                      bias ? format::Shape{module.shape[0]} : module.shape, values));
    }
  }
  // The fused rows are q, k, v one above the other: checked against the bytes of the chatglm file.
  auto before = tensors_of(source);
  const auto fused = floats(named(before, "transformer.encoder.layers.1.self_attention.query_key_value.weight"));
  const auto k = floats(named(stored, "model.layers.1.self_attn.k_proj.weight"));
  ASSERT_EQ(k.size(), 64u * 128);
  EXPECT_TRUE(std::equal(k.begin(), k.end(), fused.begin() + 128 * 128));
  const auto v_bias = floats(named(stored, "model.layers.1.self_attn.v_proj.bias"));
  const auto fused_bias = floats(named(before, "transformer.encoder.layers.1.self_attention.query_key_value.bias"));
  EXPECT_TRUE(std::equal(v_bias.begin(), v_bias.end(), fused_bias.begin() + 192));

  write_model(folder, config.raw, stored);
  const format::StoredModel artifact = open_or_fail(folder.path());
  CancelToken cancel;
  const auto there = compare_weights(source, artifact, {}, cancel);
  ASSERT_TRUE(there.ok()) << there.status().message();
  EXPECT_THAT(there->tensors, IsEmpty());
  EXPECT_THAT(there->missing, ElementsAre("transformer.rotary_pos_emb.inv_freq"));  // computed, so glm stores none
  EXPECT_THAT(there->extra, IsEmpty());
  EXPECT_EQ(there->identical, static_cast<int64_t>(artifact.checkpoint.names().size()));

  const auto back = compare_weights(artifact, source, {}, cancel);  // fuses again
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_THAT(back->tensors, IsEmpty());
  EXPECT_THAT(back->missing, IsEmpty());
  EXPECT_THAT(back->extra, ElementsAre("transformer.rotary_pos_emb.inv_freq"));
  EXPECT_EQ(back->identical, static_cast<int64_t>(source.checkpoint.names().size()) - 1);
}

TEST(CompareWeights, NamesWhatChangedIsMissingOrExtra) {
  const TestFolder folder;
  const format::StoredModel source = tiny("glm");
  auto tensors = tensors_of(source);
  const float two = 2;
  std::memcpy(named(tensors, "model.norm.weight").bytes.data(), &two, sizeof two);
  std::memcpy(named(tensors, "model.layers.0.self_attn.q_proj.bias").bytes.data(), &two, sizeof two);
  tensors.push_back(format::stored("visual.weight", DType::kF32, {2}, std::vector<float>{1, 2}));
  write_model(folder, source.config.raw, tensors);
  const format::StoredModel artifact = open_or_fail(folder.path());
  CancelToken cancel;
  const auto diff = compare_weights(source, artifact, {}, cancel);
  ASSERT_TRUE(diff.ok()) << diff.status().message();
  EXPECT_THAT(diff->changed, ElementsAre("model.layers.0.self_attn.q_proj.bias", "model.norm.weight"));
  EXPECT_THAT(diff->extra, ElementsAre("visual.weight"));
  EXPECT_EQ(diff->tensors.size(), 2u);
  EXPECT_EQ(diff->tensors[1].scheme, "F32");
  EXPECT_THAT(compare_weights(artifact, source, {}, cancel)->missing, ElementsAre("visual.weight"));
}

TEST(CompareWeights, ComparesCarriedOverTensorsByTheirBytes) {
  const TestFolder a, b;
  const format::StoredModel source = tiny("glm");
  auto tensors = tensors_of(source);
  tensors.push_back(format::stored("visual.weight", DType::kF32, {2}, std::vector<float>{1, 2}));
  write_model(a, source.config.raw, tensors);
  tensors.back() = format::stored("visual.weight", DType::kF32, {2}, std::vector<float>{1, 3});
  write_model(b, source.config.raw, tensors);
  CancelToken cancel;
  const format::StoredModel before = open_or_fail(a.path()), after = open_or_fail(b.path());
  const auto diff = compare_weights(before, after, {}, cancel);
  EXPECT_THAT(diff->changed, ElementsAre("visual.weight"));
  EXPECT_THAT(diff->tensors, IsEmpty());
  const Sizes sizes = measure_sizes(after, nullptr);
  EXPECT_EQ(sizes.parts.back().part, "other");
  EXPECT_EQ(sizes.parts.back().bytes, 8);
  EXPECT_EQ(sizes.ratio, 0);
}

TEST(CompareWeights, ToleratesAnotherFloatTypeAndMeasuresItsRounding) {
  const TestFolder folder;
  const format::StoredModel source = tiny("glm");
  auto tensors = tensors_of(source);
  StoredTensor& down = named(tensors, "model.layers.0.mlp.down_proj.weight");
  const std::vector<float> values = floats(down);
  down.dtype = DType::kBF16;
  down.bytes.resize(values.size() * 2);
  format::from_float(DType::kBF16, values, down.bytes);
  write_model(folder, source.config.raw, tensors);
  CancelToken cancel;
  const auto diff = compare_weights(source, open_or_fail(folder.path()), {}, cancel);
  ASSERT_TRUE(diff.ok()) << diff.status().message();
  ASSERT_EQ(diff->tensors.size(), 1u);
  EXPECT_EQ(diff->tensors[0].scheme, "BF16");
  EXPECT_GT(diff->tensors[0].relative_mse, 0);
  EXPECT_LT(diff->tensors[0].relative_mse, std::pow(2.0, -16));  // half a unit in the last of 8 bits, squared
}

TEST(CompareWeights, NamesNonFiniteValues) {
  const TestFolder folder;
  const format::StoredModel source = tiny("glm");
  auto tensors = tensors_of(source);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(named(tensors, "lm_head.weight").bytes.data() + 40, &nan, sizeof nan);
  write_model(folder, source.config.raw, tensors);
  CancelToken cancel;
  const Status status = compare_weights(source, open_or_fail(folder.path()), {}, cancel).status();
  EXPECT_EQ(status.code(), StatusCode::kBadInput);
  EXPECT_THAT(status.message(), HasSubstr("lm_head.weight"));
  cancel.cancel();
  EXPECT_EQ(compare_weights(source, source, {}, cancel).status().code(), StatusCode::kCancelled);
}

TEST(CompareWeights, RefusesModelsOfOtherShapes) {
  CancelToken cancel;
  const format::StoredModel demo = open_or_fail(std::string(AUTOGLM_SOURCE_DIR) + "/models/glm-phone-demo");
  const Status status = compare_weights(tiny("glm4"), demo, {}, cancel).status();
  EXPECT_EQ(status.code(), StatusCode::kBadInput);
  EXPECT_THAT(status.message(), HasSubstr("embed_tokens': has 4096 x 256 numbers, in the source 320 x 128"));
  EXPECT_EQ(format::StoredModel::open("/nowhere").status().code(), StatusCode::kBadInput);
}

TEST(CompareWeights, SamplesRowsWhenTimeIsShort) {
  const format::StoredModel demo = open_or_fail(std::string(AUTOGLM_SOURCE_DIR) + "/models/glm-phone-demo");
  CancelToken cancel;
  const auto diff = compare_weights(demo, demo, {.max_bytes = demo.checkpoint.total_bytes() / 4}, cancel);
  ASSERT_TRUE(diff.ok()) << diff.status().message();
  EXPECT_LT(diff->compared_share, 1);
  EXPECT_GT(diff->compared_share, 0);
}

}  // namespace
}  // namespace autoglm::eval
