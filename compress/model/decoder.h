#pragma once
/// Decoder: a checkpoint seen as embedding + blocks[] + head, each loaded when it is needed and freed after.
///
/// Reads float checkpoints and compressed-tensors artifacts alike. Copies share the mapped files and what was kept.
/// Thread-compatible.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "compress/model/block.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/stored_model.h"

namespace autoglm::model {

struct DecoderOptions {
  at::ScalarType compute = at::kFloat;  ///< kFloat, kBFloat16 or kHalf
  at::Device device = at::kCPU;         ///< CUDA where this LibTorch has it; refused with one line where it has not
};

class Decoder {
 public:
  /// kBadInput: not a model folder, tensors that contradict config.json, a quantization that cannot be read.
  /// kInvalidArgument: `options`.
  static Result<Decoder> open(const std::filesystem::path& folder, const DecoderOptions& options = {});

  const format::StoredModel& stored() const { return *stored_; }
  const format::ModelConfig& config() const { return stored_->config; }
  const format::Checkpoint& checkpoint() const { return stored_->checkpoint; }
  const format::TensorLayout& layout() const { return stored_->layout; }
  const DecoderOptions& options() const { return options_; }

  /// Weights of layer `layer`, dequantized into the compute dtype. The file is read in small pieces whose pages are
  /// released, so that little more than the block itself is ever resident. Cancelled between weights.
  Result<Block> load_block(int64_t layer, const CancelToken* cancel = nullptr) const;

  /// Any single linear, embedding or head weight as [out, in] in `type`, on the decoder's device.
  Result<at::Tensor> load_weight(const format::ModuleSpec& module, at::ScalarType type) const;

  /// ids [batch, tokens] int64 -> [batch, tokens, hidden]. Reads only the rows that are needed. kInvalidArgument: an id
  /// outside the vocabulary.
  Result<at::Tensor> embed(const at::Tensor& ids) const;
  /// One sequence: [1, tokens, hidden].
  Result<at::Tensor> embed(const std::vector<int32_t>& sequence) const;

  /// The final norm alone, which is the head's input: hidden [n, hidden] -> [n, hidden].
  Result<at::Tensor> head_input(const at::Tensor& hidden) const;

  /// Final norm and head: hidden [n, hidden] -> logits [n, vocab] float32. The head's weight is read in row chunks,
  /// unless `keep_head` was called.
  Result<at::Tensor> logits(const at::Tensor& hidden) const;
  Status keep_head();

  /// Tables for positions 0..length-1 of a sequence of `length` tokens.
  Rotary rotary(int64_t length) const { return Rotary::build(config(), length, options_.device); }

  /// Bytes a block takes in memory in the compute dtype, exactly; and the largest of them all (for memory plans).
  int64_t block_bytes(int64_t layer) const;
  int64_t block_bytes() const;
  int64_t float_block_bytes() const;  ///< the largest in float32, whatever the compute dtype
  /// What a block keeps for its backward pass over `tokens` tokens in float32, at most (for memory plans).
  int64_t backward_bytes(int64_t tokens) const;
  double block_flops() const;  ///< operations that one token takes through all blocks, two for each weight
  /// Bytes of the head's weight once `keep_head` was called.
  int64_t head_bytes() const;

 private:
  Decoder() = default;
  /// Fills `out` [count, cols] with the rows from `first` on of a weight; the pages that were read are released.
  Status load_rows(const format::ModuleSpec& module, int64_t first, const at::Tensor& out) const;
  Result<Linear> load_linear(const format::ModuleSpec& module) const;
  Status load_module(const format::ModuleSpec& module, Block& block) const;

  std::shared_ptr<const format::StoredModel> stored_;
  DecoderOptions options_;
  at::Tensor final_norm_, head_;  // head_ only after keep_head()
};

}  // namespace autoglm::model
