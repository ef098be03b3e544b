#pragma once
/// What calibration keeps of the inputs of a linear layer.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

#include "compress/calibrate/summary.h"
#include "core/base/status.h"

namespace autoglm::calibrate {

/// What a method wants to know; nothing else is computed.
struct Needs {
  bool hessian = false;       ///< the matrix of GPTQ
  bool drift = false;         ///< how the source's inputs differ from these, for GPTAQ
  bool moments = false;       ///< absmax, mean, mean size and mean square of every input channel
  bool summary = false;       ///< how the values are distributed
  int64_t sample_tokens = 0;  ///< this many inputs themselves

  bool any() const { return hessian || drift || moments || summary || sample_tokens > 0; }
  Needs operator|(const Needs& other) const;
};

/// Statistics of one input x [in], shared by the linears that multiply it. float32 on the device of the inputs.
///
/// `hessian` = 2/n sum x x^T is summed in float32: one product per batch of tokens (whose own sums are blocked), then
/// added to the total. Its relative error stays near 1e-6 for any n met in practice, far below the damping (1e-2 of
/// the mean diagonal) and the noise of drawing other text; float64 would double the largest buffer of the program.
struct InputStatistics {
  int64_t tokens = 0;   ///< 0: nothing was seen (an expert that no token reached), the tensors are undefined
  at::Tensor hessian;   ///< [in, in], symmetric; a pass may take it (move it out) to work in place
  at::Tensor drift;     ///< [in, in]: 2/n sum (x_source - x) x^T; undefined where tokens could not be paired (experts)
  at::Tensor absmax;    ///< [in]
  at::Tensor mean;      ///< [in]
  at::Tensor mean_abs;  ///< [in]: mean |x|
  at::Tensor mean_square;  ///< [in]; with `hessian` alone also filled (its diagonal / 2)
  InputSummary summary;
  at::Tensor sample;  ///< [<= sample_tokens, in], spread evenly over the tokens seen
};

/// Adds batches of inputs. Not thread-safe.
class StatisticsBuilder {
 public:
  StatisticsBuilder(const Needs& needs, int64_t expected_tokens) : needs_(needs), expected_tokens_(expected_tokens) {}

  /// `x` [tokens, in] of any float type; `source` what the source has in the place of x, of the same shape, or
  /// undefined. Throws c10::Error.
  void add(const at::Tensor& x, const at::Tensor& source = {});

  /// kBadInput: the inputs hold NaN or infinity; the message ends with `where`.
  Result<InputStatistics> finish(std::string_view where);

 private:
  void add_hessian(const at::Tensor& x);
  void add_sample(const at::Tensor& x);

  Needs needs_;
  int64_t expected_tokens_;  ///< all that will come, as far as known: spaces the sample
  InputStatistics sums_;
  int64_t sampled_ = 0;
  bool finite_ = true;
};

/// Bytes that the statistics of an input of `width` channels take (for memory plans).
int64_t statistics_bytes(const Needs& needs, int64_t width);

}  // namespace autoglm::calibrate
