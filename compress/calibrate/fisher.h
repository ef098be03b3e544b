#pragma once
/// Fisher: how much a small change of a block's output changes what the model predicts. F = E[|y|^2 g g^T] over tokens,
/// with y the block's output at a token and g the gradient there of the log-likelihood of the tokens that the model
/// itself draws after it and later; a change d then costs a divergence of (d / |y|)^T F (d / |y|) / 2 (J. Martens, New
/// insights and perspectives on the natural gradient method, JMLR 21, 2020, sections 5 and 9). One matrix stands for
/// all tokens of a layer; changes count relative to |y|, because the norms of the blocks that follow divide by it. A router's change
/// of choice is not in it.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <vector>

#include "compress/calibrate/hidden_states.h"
#include "compress/model/decoder.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/eval/scorer.h"

namespace autoglm::calibrate {

struct FisherOptions {
  int64_t tokens = 8192;             ///< of the calibration set, about (at least one sequence), spread over it
  uint64_t seed = 0;                 ///< of the tokens that are drawn
  int64_t memory_limit = INT64_MAX;  ///< bytes held in memory of states, and as many of matrices; the rest goes to disk
  std::filesystem::path scratch;     ///< where to; a folder
};

/// Of the output of every block of a decoder. Not thread-safe.
class Fisher {
 public:
  /// Runs some of `calibration` forward and back through `source`, a block in memory at a time. The same seed and
  /// thread count give the same numbers. kBadInput: the model gives NaN.
  static Result<Fisher> measure(const model::Decoder& source, const std::vector<eval::Tokens>& calibration,
                                const FisherOptions& options, CancelToken& cancel);

  /// Of the output of block `layer`, [hidden, hidden] float32, symmetric.
  Result<at::Tensor> matrix(int64_t layer) const;

  /// What it costs that a block with this matrix gives `got` in place of `wanted`, both [..., hidden] float32: nats for
  /// each token, to the second order. A scalar; gradients go through it.
  static at::Tensor cost(const at::Tensor& matrix, const at::Tensor& got, const at::Tensor& wanted);

  /// Bytes of working memory beyond the program, the result among them, and floating-point operations, for plans.
  static int64_t bytes(const model::Decoder& source, int64_t sequences, int64_t length, const FisherOptions& options);
  /// Of the result alone.
  static int64_t matrix_bytes(const model::Decoder& source, const FisherOptions& options);
  static double flops(const model::Decoder& source, int64_t sequences, int64_t length, const FisherOptions& options);

 private:
  HiddenStates matrices_;  ///< a sequence of `hidden` vectors for each layer
};

}  // namespace autoglm::calibrate
