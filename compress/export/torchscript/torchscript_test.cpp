#include "compress/export/torchscript/torchscript.h"

#include <gtest/gtest.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "compress/model/testing.h"

namespace autoglm::exports {
namespace {

using model::golden, model::ScratchCopy, model::tiny_folder;

class TorchScriptTest : public testing::TestWithParam<std::string> {
 protected:
  /// The folder of what is written of `source`.
  Result<TorchScriptReport> write(const std::filesystem::path& source) {
    AUTOGLM_ASSIGN_OR_RETURN(const auto stored, format::StoredModel::open(source));
    AUTOGLM_ASSIGN_OR_RETURN(auto folder, format::FolderWriter::create(out(), {.overwrite = true}));
    AUTOGLM_ASSIGN_OR_RETURN(const auto report, write_torchscript(stored, folder, cancel_));
    AUTOGLM_RETURN_IF_ERROR(folder.commit());
    return report;
  }
  std::filesystem::path out() const { return scratch_.folder() / "out"; }

  ScratchCopy scratch_{tiny_folder("glm")};
  CancelToken cancel_;
};

/// Logits and cache of `ids`, by LibTorch's interpreter.
std::pair<at::Tensor, c10::List<at::Tensor>> run(torch::jit::Module& module, const at::Tensor& ids,
                                                 const c10::List<at::Tensor>& cache = c10::List<at::Tensor>()) {
  const at::NoGradGuard no_grad;
  const auto result = module.forward({ids, cache}).toTuple();
  return {result->elements()[0].toTensor(), result->elements()[1].toTensorList()};
}

TEST_P(TorchScriptTest, ComputesWhatHuggingFaceDoes) {
  const auto report = write(tiny_folder(GetParam()));
  ASSERT_TRUE(report.ok()) << report.status().message();
  EXPECT_GT(report->checked, 0);
  torch::jit::Module module = torch::jit::load((out() / "model.pt").string());
  const at::Tensor ids = golden(GetParam(), "input_ids"), expected = golden(GetParam(), "logits");
  EXPECT_LT(model::relative_error(run(module, ids).first, expected), 1e-5);

  // A part, then token after token with the cache.
  const int64_t length = ids.size(1), first = length / 2;
  auto [logits, cache] = run(module, ids.narrow(1, 0, first));
  std::vector<at::Tensor> parts = {logits};
  for (int64_t i = first; i < length; ++i) {
    std::tie(logits, cache) = run(module, ids.narrow(1, i, 1), cache);
    parts.push_back(logits);
  }
  EXPECT_LT(model::relative_error(at::cat(parts, 1), expected), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Families, TorchScriptTest, testing::ValuesIn(model::kTinyFamilies),
                         [](const auto& info) { return info.param; });

TEST_F(TorchScriptTest, IsTheSameEveryTime) {
  const auto bytes = [&] {
    EXPECT_TRUE(write(tiny_folder("glm4_moe")).ok());
    std::ifstream file(out() / "model.pt", std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::string once = bytes();
  EXPECT_EQ(once, bytes());
}

TEST_F(TorchScriptTest, NamesWeightsThatAreNotFinite) {
  const std::filesystem::path source = scratch_.folder();
  const float bad = std::numeric_limits<float>::quiet_NaN();
  std::fstream file(source / "model.safetensors", std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(-static_cast<std::streamoff>(sizeof bad), std::ios::end);  // the last tensor's last value
  file.write(reinterpret_cast<const char*>(&bad), sizeof bad);
  file.close();
  const Status status = write(source).status();
  EXPECT_EQ(status.code(), StatusCode::kBadInput);
  EXPECT_NE(status.message().find("holds NaN or infinity"), std::string::npos) << status.message();
  EXPECT_FALSE(std::filesystem::exists(out()));
}

TEST_F(TorchScriptTest, EndsWhenCancelled) {
  cancel_.cancel();
  EXPECT_EQ(write(tiny_folder("glm")).status().code(), StatusCode::kCancelled);
  EXPECT_FALSE(std::filesystem::exists(out()));
}

}  // namespace
}  // namespace autoglm::exports
