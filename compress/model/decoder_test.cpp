#include "compress/model/decoder.h"

#include <gmock/gmock.h>

#include <fstream>

#include "compress/model/testing.h"

namespace autoglm::model {
namespace {

using testing::HasSubstr;

class GoldenTest : public SettingTest {};
INSTANTIATE_TEST_SUITE_P(Tiny, GoldenTest, SettingTest::cases(), SettingTest::name);

TEST_P(GoldenTest, HiddenStatesAndLogitsAreThoseOfHuggingFace) {
  const Decoder decoder = open();
  const std::vector<at::Tensor> states = hidden_states(decoder, golden(family(), "input_ids"));
  ASSERT_EQ(states.size(), 4u);
  for (size_t i = 0; i < states.size(); ++i) {
    EXPECT_EQ(states[i].scalar_type(), options().compute);
    EXPECT_EQ(states[i].device().type(), options().device.type());
    compare(states[i], golden(family(), "hidden." + std::to_string(i)));
    EXPECT_LT(error(), bound()) << "layer " << i;
  }
  // Hidden states come from another device too, as a pipeline that keeps them in memory hands them over.
  const at::Tensor logits = decoder.logits(states.back().flatten(0, 1).cpu()).value();
  EXPECT_EQ(logits.scalar_type(), at::kFloat);
  const at::Tensor expected = golden(family(), "logits").flatten(0, 1);
  compare(logits, expected);
  EXPECT_LT(error(), bound());
  if (options().compute != at::kFloat) return;
  EXPECT_LT((logits.cpu() - expected).abs().max().item<double>(), 1e-4 * expected.abs().max().item<double>());
}

TEST_P(GoldenTest, BlockBytesAreExact) {
  const Decoder decoder = open();
  int64_t largest = 0;
  for (int64_t layer = 0; layer < decoder.config().num_hidden_layers; ++layer) {
    const int64_t bytes = decoder.load_block(layer).value().bytes();
    EXPECT_EQ(decoder.block_bytes(layer), bytes);
    largest = std::max(largest, bytes);
  }
  EXPECT_EQ(decoder.block_bytes(), largest);
}

TEST(Decoder, KeptHeadGivesTheSameLogits) {
  Decoder decoder = open_decoder(tiny_folder("glm4_tied"));
  const at::Tensor hidden = golden("glm4_tied", "hidden.3").flatten(0, 1);
  const at::Tensor streamed = decoder.logits(hidden).value();
  ASSERT_TRUE(decoder.keep_head().ok());
  EXPECT_LT(relative_error(decoder.logits(hidden).value(), streamed), 1e-6);
  EXPECT_EQ(decoder.head_bytes(), 320 * 128 * 4);
}

TEST(Decoder, EmbedReadsRowsInAnyOrderAndRefusesForeignIds) {
  const Decoder decoder = open_decoder(tiny_folder("glm"));
  const at::Tensor table = read_tensor(tiny_folder("glm") / "model.safetensors", "model.embed_tokens.weight");
  const at::Tensor ids = at::tensor({319, 0, 5, 4, 5, 319}, at::kLong).view({2, 3});
  EXPECT_TRUE(decoder.embed(ids).value().equal(table.index_select(0, ids.flatten()).view({2, 3, 128})));
  for (const int64_t bad : {int64_t{-1}, int64_t{320}}) {
    const auto refused = decoder.embed(at::tensor({int64_t{3}, bad}, at::kLong).view({1, 2}));
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(refused.status().message(), HasSubstr("token id " + std::to_string(bad)));
  }
}

TEST(Decoder, RefusesOptionsThatItCannotServe) {
  EXPECT_EQ(Decoder::open(tiny_folder("glm"), {.compute = at::kDouble}).status().code(), StatusCode::kInvalidArgument);
  if (!at::hasCUDA()) {
    const Status status = Decoder::open(tiny_folder("glm"), {.device = at::kCUDA}).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), HasSubstr("--device cpu"));
  }
  EXPECT_EQ(Decoder::open(tiny_folder("glm"), {.device = at::kMeta}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(open_decoder(tiny_folder("glm")).load_block(3).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Decoder::open("/nonexistent").status().code(), StatusCode::kBadInput);
}

TEST(Decoder, LoadingABlockCanBeCancelled) {
  CancelToken cancel;
  cancel.cancel();
  EXPECT_EQ(open_decoder(tiny_folder("glm")).load_block(0, &cancel).status().code(), StatusCode::kCancelled);
}

/// Overwrites four bytes of a tensor in a checkpoint of one float32 file.
void patch(const std::filesystem::path& folder, const std::string& name, int64_t element, float value) {
  const std::filesystem::path path = folder / "model.safetensors";
  const int64_t offset = format::SafetensorsFile::open(path)->find(name)->offset;
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(offset + element * 4);
  file.write(reinterpret_cast<const char*>(&value), sizeof value);
}

TEST(Decoder, NamesTheWeightThatIsNotFinite) {
  const std::string weight = "model.layers.1.mlp.down_proj.weight";
  const ScratchCopy copy(tiny_folder("llama"));
  patch(copy.folder(), weight, 200, std::nanf(""));
  const Decoder decoder = open_decoder(copy.folder());
  EXPECT_TRUE(decoder.load_block(0).ok());
  const Status nan = decoder.load_block(1).status();
  EXPECT_EQ(nan.code(), StatusCode::kBadInput);
  EXPECT_THAT(nan.message(), HasSubstr("model.safetensors: tensor '" + weight + "': element 200 is NaN"));

  patch(copy.folder(), weight, 200, -INFINITY);
  EXPECT_THAT(decoder.load_block(1).status().message(), HasSubstr("element 200 is infinite"));

  patch(copy.folder(), weight, 200, 1e5F);
  EXPECT_TRUE(decoder.load_block(1).ok());
  const Decoder half = open_decoder(copy.folder(), {.compute = at::kHalf});
  EXPECT_THAT(half.load_block(1).status().message(), HasSubstr("is 100000, beyond the range of Half"));

  patch(copy.folder(), "model.embed_tokens.weight", 7 * 128 + 3, std::nanf(""));
  EXPECT_TRUE(decoder.embed(at::tensor({6, 8}, at::kLong).view({1, 2})).ok());
  EXPECT_THAT(decoder.embed(at::tensor({7}, at::kLong).view({1, 1})).status().message(),
              HasSubstr("element 899 is NaN"));
  EXPECT_THAT(decoder.logits(at::ones({1, 128})).status().message(), HasSubstr("element 899 is NaN"));
}

}  // namespace
}  // namespace autoglm::model
