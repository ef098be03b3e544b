#pragma once
/// Helpers of this room's tests: the tiny checkpoints and what Hugging Face computes with them
/// (tests/data/make_golden.py).
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "compress/model/decoder.h"
#include "compress/tensor/bridge.h"
#include "core/format/safetensors.h"

namespace autoglm::model {

inline const std::vector<std::string> kTinyFamilies = {"chatglm",   "glm",   "glm4",  "glm4v", "glm4_moe",
                                                       "glm4_tied", "llama", "qwen2", "qwen3"};

inline std::filesystem::path tiny_folder(const std::string& family) {
  return std::filesystem::path(AUTOGLM_SOURCE_DIR) / "tests/data/tiny" / family;
}

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

/// ||a - b|| / ||b||.
inline double relative_error(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kDouble) - b.to(at::kDouble)).norm() / b.to(at::kDouble).norm()).item<double>();
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
