#pragma once
/// Helpers of this room's tests: the tiny checkpoints and what Hugging Face computes with them
/// (tests/data/make_golden.py).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/format/checkpoint_writer.h"
#include "core/format/quantized_weight.h"
#include "core/format/safetensors.h"
#include "core/format/tiny_models.h"
#include "runtime/engine/forward.h"

namespace autoglm::engine {

using format::kTiny;
inline const std::vector<std::string> kTinyFamilies = format::tiny_families();

inline std::filesystem::path tiny_folder(const std::string& family) { return kTiny / family; }

template <typename T>
T must(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().message());
  return *std::move(result);
}

inline std::vector<float> golden(const std::string& family, const std::string& name) {
  const auto file = must(format::SafetensorsFile::open(tiny_folder(family) / "golden.safetensors"));
  const format::TensorInfo* info = file.find(name);
  if (info == nullptr) throw std::runtime_error(name);
  std::vector<float> values(static_cast<size_t>(*format::element_count(info->shape)));
  format::to_float(info->dtype, file.bytes(*info), values);
  return values;
}

inline constexpr int64_t kGoldenTokens = 24;  // of each of the two rows of input_ids

/// One row of golden input_ids.
inline std::vector<int32_t> golden_ids(const std::string& family, int64_t row) {
  const std::vector<float> all = golden(family, "input_ids");
  return {all.begin() + row * kGoldenTokens, all.begin() + (row + 1) * kGoldenTokens};
}

/// ||a - b|| / ||b||.
inline double relative_error(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    norm += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(difference / norm);
}

/// A model with a cache and a pool, and sequences that each hold their pages.
class Rig {
 public:
  struct Options {
    kernels::Compute compute = kernels::Compute::kFloat;
    kernels::KvType kv = kernels::KvType::kF16;
    int threads = 2;
    int64_t pages = 64;
  };
  explicit Rig(const std::filesystem::path& folder) : Rig(folder, Options()) {}
  Rig(const std::filesystem::path& folder, const Options& options)
      : pool(options.threads),
        model(must(Model::load(must(Weights::open(folder)), pool))),
        cache(must(KvCache::create({options.kv, config().num_key_value_heads, config().head_dim, 16},
                                   config().num_hidden_layers, options.pages))),
        forward(*model, cache, *must(kernels::select()), pool, options.compute) {}

  const format::ModelConfig& config() const { return model->config(); }

  struct Sequence {
    std::vector<int32_t> pages;
    int64_t length = 0;
  };

  /// Logits after every token of `tokens`, which follow what each sequence holds.
  std::vector<std::vector<float>> run(const std::vector<Sequence*>& sequences,
                                      const std::vector<std::vector<int32_t>>& tokens) {
    std::vector<TokenRun> runs;
    int64_t total = 0;
    for (size_t i = 0; i < sequences.size(); ++i) {
      Sequence& sequence = *sequences[i];
      const int64_t end = sequence.length + static_cast<int64_t>(tokens[i].size());
      while (static_cast<int64_t>(sequence.pages.size()) < cache.pool().pages_for(end)) {
        sequence.pages.push_back(cache.pool().acquire());
      }
      runs.push_back({tokens[i], sequence.length, end, sequence.pages});
      sequence.length = end;
      total += static_cast<int64_t>(tokens[i].size());
    }
    std::vector<float> hidden(static_cast<size_t>(total * config().hidden_size));
    const Status status = forward.run(runs, Rows::kAll, hidden);
    if (!status.ok()) throw std::runtime_error(status.message());
    std::vector<std::vector<float>> logits;
    const float* at = hidden.data();
    for (const std::vector<int32_t>& part : tokens) {
      const auto count = static_cast<int64_t>(part.size());
      logits.emplace_back(static_cast<size_t>(count * config().vocab_size));
      forward.logits(at, count, logits.back().data());
      at += count * config().hidden_size;
    }
    return logits;
  }
  std::vector<float> run(const std::vector<int32_t>& tokens) {
    Sequence sequence;
    return run({&sequence}, {tokens})[0];
  }

  kernels::ThreadPool pool;
  std::unique_ptr<Model> model;
  KvCache cache;
  Forward forward;
};

/// A folder of its own for a test, removed at the end.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "autoglm-engine-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = pattern;
  }
  explicit ScratchFolder(const std::filesystem::path& source) : ScratchFolder() {
    std::filesystem::copy(source, path_, std::filesystem::copy_options::recursive);
  }
  ~ScratchFolder() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

  /// Replaces `from`, which must occur, in config.json.
  void edit_config(const std::string& from, const std::string& to) const {
    std::string text = must(format::read_text_file(path_ / "config.json"));
    const size_t at = text.find(from);
    if (at == std::string::npos) throw std::runtime_error("config.json has no " + from);
    text.replace(at, from.size(), to);
    std::ofstream(path_ / "config.json") << text;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace autoglm::engine
