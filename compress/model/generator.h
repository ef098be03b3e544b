#pragma once
/// Generator: all blocks in memory with a KV cache, for generation and latency.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "compress/model/decoder.h"
#include "core/base/cancel.h"
#include "core/base/status.h"

namespace autoglm::model {

/// Runs one batch of sequences at a time. Shares the decoder's files; not thread-safe.
class Generator {
 public:
  /// Loads every block and the head. kResourceExhausted when they would exceed `max_bytes` (0: no limit).
  static Result<Generator> create(const Decoder& decoder, int64_t max_bytes = 0, const CancelToken* cancel = nullptr);
  Generator(Generator&&) noexcept;
  Generator& operator=(Generator&&) noexcept;
  ~Generator();

  /// Bytes of weights that `create` will hold.
  static int64_t weight_bytes(const Decoder& decoder);

  /// Forgets what went before, runs `prompts` (one batch of any lengths, none empty) and returns the next token's
  /// logits [batch, vocab] float32.
  Result<at::Tensor> prefill(const std::vector<std::vector<int32_t>>& prompts, const CancelToken* cancel = nullptr);

  /// Appends one token to each sequence and returns the next logits [batch, vocab] float32.
  Result<at::Tensor> step(std::span<const int32_t> tokens, const CancelToken* cancel = nullptr);

  /// Goes on with these sequences of the batch alone (rising indices), for instance when the others have ended.
  Status keep(std::span<const int64_t> sequences);

  const Decoder& decoder() const;
  const std::vector<Block>& blocks() const;

 private:
  struct Impl;
  explicit Generator(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace autoglm::model
