#pragma once
/// Helpers of this room's tests: the tiny checkpoints and what Hugging Face computes with them
/// (tests/data/make_golden.py).
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <tuple>
#include <vector>

#include "compress/model/decoder.h"
#include "compress/tensor/bridge.h"
#include "core/format/safetensors.h"
#include "core/format/tiny_models.h"

namespace autoglm::model {

using format::kTiny;
inline const std::vector<std::string> kTinyFamilies = format::tiny_families();

inline std::filesystem::path tiny_folder(const std::string& family) { return kTiny / family; }

/// One tensor of a safetensors file.
inline at::Tensor read_tensor(const std::filesystem::path& path, const std::string& name) {
  const auto file = format::SafetensorsFile::open(path);
  EXPECT_TRUE(file.ok()) << file.status().message();
  const format::TensorInfo* info = file->find(name);
  EXPECT_NE(info, nullptr) << name;
  const auto bytes = file->bytes(*info);
  at::Tensor out = at::empty(info->shape, tensor::to_torch(info->dtype));
  std::memcpy(out.data_ptr(), bytes.data(), bytes.size());
  return out;
}

inline at::Tensor golden(const std::string& family, const std::string& name) {
  return read_tensor(tiny_folder(family) / "golden.safetensors", name);
}

/// ||a - b|| / ||b||, wherever they lie.
inline double relative_error(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor expected = b.to(at::kCPU, at::kDouble);
  return ((a.to(at::kCPU, at::kDouble) - expected).norm() / expected.norm()).item<double>();
}

inline Decoder open_decoder(const std::filesystem::path& folder, const DecoderOptions& options = {}) {
  Result<Decoder> decoder = Decoder::open(folder, options);
  if (!decoder.ok()) throw std::runtime_error(decoder.status().message());
  return *std::move(decoder);
}

/// The hidden states of ids [batch, tokens]: after the embedding, then after each block.
inline std::vector<at::Tensor> hidden_states(const Decoder& decoder, const at::Tensor& ids) {
  std::vector<at::Tensor> states = {decoder.embed(ids).value()};
  const Rotary rotary = decoder.rotary(ids.size(1));
  for (int64_t layer = 0; layer < decoder.config().num_hidden_layers; ++layer) {
    const Block block = decoder.load_block(layer).value();
    states.push_back(forward(decoder.config(), block, rotary, states.back()));
  }
  return states;
}

/// Logits [batch, tokens, vocab] of ids [batch, tokens].
inline at::Tensor all_logits(const Decoder& decoder, const at::Tensor& ids) {
  const at::Tensor hidden = hidden_states(decoder, ids).back();
  return decoder.logits(hidden.flatten(0, 1)).value().view({ids.size(0), ids.size(1), -1});
}

/// Where and in what the golden tests compute, and how far off they may be.
struct Setting {
  std::string name;
  DecoderOptions options;
  double bound;
};
inline const std::vector<Setting> kSettings = {
    {"cpu_fp32", {at::kFloat, at::kCPU}, 1e-5},      {"cpu_bf16", {at::kBFloat16, at::kCPU}, 0.05},
    {"cpu_fp16", {at::kHalf, at::kCPU}, 0.01},       {"cuda_fp32", {at::kFloat, at::kCUDA}, 1e-5},
    {"cuda_bf16", {at::kBFloat16, at::kCUDA}, 0.05}, {"cuda_fp16", {at::kHalf, at::kCUDA}, 0.01}};

/// Every tiny checkpoint in every setting.
class SettingTest : public testing::TestWithParam<std::tuple<std::string, Setting>> {
 public:
  static auto cases() { return testing::Combine(testing::ValuesIn(kTinyFamilies), testing::ValuesIn(kSettings)); }
  static std::string name(const testing::TestParamInfo<ParamType>& info) {
    return std::get<0>(info.param) + "_" + std::get<1>(info.param).name;
  }

 protected:
  void SetUp() override {
    if (options().device.is_cuda() && !at::hasCUDA()) GTEST_SKIP() << "no CUDA here";
  }
  const std::string& family() const { return std::get<0>(GetParam()); }
  const DecoderOptions& options() const { return std::get<1>(GetParam()).options; }
  double bound() const { return std::get<1>(GetParam()).bound; }
  Decoder open() const { return open_decoder(tiny_folder(family()), options()); }

  /// Notes how far off each row is.
  void compare(const at::Tensor& actual, const at::Tensor& expected) {
    const at::Tensor difference = actual.to(at::kCPU, at::kFloat) - expected;
    errors_.push_back((difference.norm(2, -1) / expected.norm(2, -1)).flatten());
  }
  /// Of the rows since the last call the worst; in half precision the median, for rounding may send a token of a random
  /// mixture of experts to another expert.
  double error() {
    const at::Tensor all = at::cat(errors_);
    errors_.clear();
    return (options().compute == at::kFloat ? all.max() : all.median()).item<double>();
  }

 private:
  std::vector<at::Tensor> errors_;
};

/// A copy of a tiny checkpoint that a test may damage; removed at the end.
class ScratchCopy {
 public:
  explicit ScratchCopy(const std::filesystem::path& source) {
    std::string pattern = (std::filesystem::temp_directory_path() / "autoglm-model-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
    folder_ = pattern;
    std::filesystem::copy(source, folder_, std::filesystem::copy_options::recursive);
  }
  ~ScratchCopy() { std::filesystem::remove_all(folder_); }
  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::filesystem::path folder_;
};

}  // namespace autoglm::model
