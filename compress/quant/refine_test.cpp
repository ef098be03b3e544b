#include "compress/quant/refine.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "compress/quant/pipeline_testing.h"

namespace autoglm::quant {
namespace {

using testing::compress;
using ::testing::HasSubstr;
using testing::kTiny;
using testing::random_tokens;
using testing::recipe_of;
using testing::Scratch;

Result<Refined> refine_folder(const std::string& family, const std::filesystem::path& folder,
                              const std::vector<eval::Tokens>& calibration, const RefineOptions& options,
                              CancelToken* cancel = nullptr) {
  CancelToken own;
  const model::Decoder source = model::Decoder::open(kTiny / family).value();
  const model::Decoder staged = model::Decoder::open(folder).value();
  return refine(source, staged, calibration, options, cancel != nullptr ? *cancel : own);
}

class RefineFamily : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Tiny, RefineFamily,
                         ::testing::Values("chatglm", "glm4", "glm4v", "glm4_moe", "qwen2", "qwen3"));

TEST_P(RefineFamily, ComesCloserAndKeepsEveryInteger) {
  const auto calibration = random_tokens(32, 48, 320, 1);
  Scratch scratch;
  pass::Recipe recipe = recipe_of("int3-g32", "rtn");
  recipe.head = pass::Scheme::parse("int3-g32").value();
  ASSERT_TRUE(compress(kTiny / GetParam(), scratch / "before", recipe, {}).ok());
  std::filesystem::copy(scratch / "before", scratch / "after", std::filesystem::copy_options::recursive);
  const auto refined =
      refine_folder(GetParam(), scratch / "after", calibration, {.epochs = 4, .batch_tokens = 192, .rate = 5e-3});
  ASSERT_TRUE(refined.ok()) << refined.status().message();
  EXPECT_TRUE(refined->kept);
  EXPECT_LT(refined->kl_after, 0.97 * refined->kl_before);
  EXPECT_EQ(refined->steps, 4 * 8);  // 30 sequences, 4 at once

  const format::Checkpoint before = format::Checkpoint::open(scratch / "before").value();
  const format::Checkpoint after = format::Checkpoint::open(scratch / "after").value();
  int64_t changed = 0;
  for (const std::string& name : before.names()) {
    const auto a = before.bytes(name).value(), b = after.bytes(name).value();
    if (std::equal(a.begin(), a.end(), b.begin(), b.end())) continue;
    ++changed;
    const bool trainable =
        name.find("norm") != std::string::npos || name.ends_with(".weight_scale") || name.ends_with(".bias");
    EXPECT_TRUE(trainable) << name;
  }
  EXPECT_GT(changed, 10);
}

TEST(Refine, TheSameSeedGivesTheSameBytes) {
  const auto calibration = random_tokens(16, 32, 320, 2);
  std::vector<std::vector<std::byte>> files;
  for (int run = 0; run < 2; ++run) {
    Scratch scratch;
    ASSERT_TRUE(compress(kTiny / "glm4", scratch / "out", recipe_of("int3-g32-asym", "rtn"), {}).ok());
    const auto refined =
        refine_folder("glm4", scratch / "out", calibration, {.epochs = 4, .batch_tokens = 64, .rate = 2e-3});
    ASSERT_TRUE(refined.ok()) << refined.status().message();
    ASSERT_TRUE(refined->kept);
    const format::Checkpoint written = format::Checkpoint::open(scratch / "out").value();
    std::vector<std::byte> all;
    for (const std::string& name : written.names()) {
      const auto bytes = written.bytes(name).value();
      all.insert(all.end(), bytes.begin(), bytes.end());
    }
    files.push_back(std::move(all));
  }
  EXPECT_EQ(files[0], files[1]);
}

TEST(Refine, LeavesTheFilesAloneWhereItDoesNotHelp) {
  const auto calibration = random_tokens(8, 32, 320, 3);
  Scratch scratch;
  ASSERT_TRUE(compress(kTiny / "glm4", scratch / "out", recipe_of("int8", "rtn"), {}).ok());
  const std::string before = testing::contents(scratch / "out" / "model.safetensors");
  const auto refined =
      refine_folder("glm4", scratch / "out", calibration, {.epochs = 2, .batch_tokens = 64, .rate = 0.5});
  ASSERT_TRUE(refined.ok()) << refined.status().message();
  EXPECT_FALSE(refined->kept);
  EXPECT_EQ(testing::contents(scratch / "out" / "model.safetensors"), before);
}

TEST(Refine, SaysWhatItCannotTrain) {
  const auto calibration = random_tokens(8, 32, 320, 4);
  Scratch scratch;
  ASSERT_TRUE(compress(kTiny / "glm4", scratch / "floats", recipe_of("bf16", ""), {}).ok());
  EXPECT_THAT(refine_folder("glm4", scratch / "floats", calibration, {}).status().message(),
              HasSubstr("no block has quantized weights"));
  ASSERT_TRUE(compress(kTiny / "glm4", scratch / "out", recipe_of("int4-g32", "rtn"), {}).ok());
  EXPECT_THAT(refine_folder("glm4", scratch / "out", {calibration[0]}, {}).status().message(),
              HasSubstr("at least two"));
  CancelToken cancelled;
  cancelled.cancel();
  EXPECT_EQ(refine_folder("glm4", scratch / "out", calibration, {}, &cancelled).status().code(),
            StatusCode::kCancelled);
}

}  // namespace
}  // namespace autoglm::quant
