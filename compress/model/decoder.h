#pragma once
/// Decoder: a checkpoint seen as embedding + blocks[] + head, each loaded when it is needed and freed after.
///
/// Reads float checkpoints and compressed-tensors artifacts alike. Thread-compatible.
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "compress/model/block.h"
#include "core/base/status.h"
#include "core/format/checkpoint.h"
#include "core/format/model_config.h"
#include "core/format/quant_scheme.h"
#include "core/format/tensor_layout.h"

namespace autoglm::model {

struct DecoderOptions {
  at::ScalarType compute = at::kFloat;   ///< kFloat, kBFloat16 or kHalf
  at::Device device = at::kCPU;          ///< CUDA where this LibTorch has it; refused with one line where it has not
};

class Decoder {
 public:
  static Result<Decoder> open(const std::filesystem::path& folder, const DecoderOptions& options = {});

  const format::ModelConfig& config() const { return config_; }
  const format::Checkpoint& checkpoint() const { return *checkpoint_; }
  const format::TensorLayout& layout() const { return layout_; }
  const std::optional<format::QuantConfig>& quant_config() const { return quant_config_; }
  const DecoderOptions& options() const { return options_; }

  /// Weights of layer `layer`, dequantized into the compute dtype. Its file pages are released.
  Result<Block> load_block(int64_t layer) const;

  /// Any single linear, embedding or head weight as [out, in] in `type`.
  Result<at::Tensor> load_weight(const format::ModuleSpec& module, at::ScalarType type) const;

  /// ids [batch, tokens] int64 -> [batch, tokens, hidden]. Reads only the rows that are needed. kInvalidArgument: an id
  /// outside the vocabulary.
  Result<at::Tensor> embed(const at::Tensor& ids) const;

  /// Final norm and head: hidden [n, hidden] -> logits [n, vocab] float32. The head's weight is read in row chunks and
  /// kept if `keep_head` was called.
  Result<at::Tensor> logits(const at::Tensor& hidden) const;
  Status keep_head();

  Rotary rotary(int64_t length) const;

  /// Largest number of bytes one block takes in memory in the compute dtype (for memory plans).
  int64_t block_bytes() const;

 private:
  Decoder() = default;
  format::ModelConfig config_;
  std::shared_ptr<const format::Checkpoint> checkpoint_;
  format::TensorLayout layout_;
  std::optional<format::QuantConfig> quant_config_;
  DecoderOptions options_;
  at::Tensor final_norm_, head_;   // head_ only after keep_head()
};

/// All blocks in memory with a KV cache, for generation and latency. Not thread-safe.
class Generator {
 public:
  /// kResourceExhausted when the weights would exceed `max_bytes` (0: no limit).
  static Result<Generator> create(const Decoder& decoder, int64_t max_bytes = 0);
  ~Generator();
  Generator(Generator&&) noexcept;

  /// Prefills `prompts` (any lengths, one batch) and returns the next token's logits [batch, vocab]; resets the cache.
  Result<at::Tensor> prefill(const std::vector<std::vector<int32_t>>& prompts);
  /// Appends one token to each sequence and returns the next logits [batch, vocab].
  Result<at::Tensor> step(std::span<const int32_t> tokens);

 private:
  struct Impl;
  explicit Generator(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace autoglm::model
