#pragma once
/// InputSummary: how the values of one input are distributed, over the tensor, its channels and its tokens.
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "compress/calibrate/observer.h"

namespace autoglm::calibrate {

/// Gathered in one pass; means and variances by pairwise merging (Chan, Golub and LeVeque 1983, eq. 2.1), in float64,
/// so that neither the number of tokens nor an offset of the values costs more precision than float32 has. Not
/// thread-safe.
class InputSummary {
 public:
  static constexpr int64_t kStep = 128;  ///< tokens to each step of the moving average
  /// Share of a step's range in it, as torch.ao.quantization has it.
  static constexpr double kAveragingConstant = 0.01;

  /// `x` [tokens, channels] float32; where a value is NaN or infinite, false, and nothing is added. The result does not
  /// depend on how tokens are cut into calls, but for rounding. Throws c10::Error.
  bool add(const at::Tensor& x);

  /// Adds what `other` saw of the same input. Exact but for the moving averages, which are weighed by tokens.
  void merge(const InputSummary& other);

  int64_t tokens() const { return tokens_; }
  const Observed& observed() const { return observed_; }
  double mean() const;      ///< of all values
  double variance() const;  ///< of all values, around their mean (population)
  double token_absmax_mean() const { return tokens_ > 0 ? token_absmax_sum_ / static_cast<double>(tokens_) : 0; }
  double token_absmax_min() const { return token_absmax_min_; }  ///< the largest follows from the range

  at::Tensor channel_min() const { return channel_min_; }  ///< [channels] float32; these are undefined without tokens
  at::Tensor channel_max() const { return channel_max_; }
  at::Tensor channel_mean() const { return channel_mean_; }  ///< [channels] float64
  at::Tensor channel_variance() const;                       ///< [channels] float64, population

 private:
  void average(const at::Tensor& low, const at::Tensor& high);
  void finish_step();
  void absorb(const InputSummary& other);  ///< all but the moving averages

  int64_t tokens_ = 0;
  Observed observed_;
  double token_absmax_sum_ = 0, token_absmax_min_ = 0;
  double step_min_ = 0, step_max_ = 0;  ///< of the step that is not full yet
  int64_t step_tokens_ = 0, steps_ = 0;
  at::Tensor channel_min_, channel_max_, channel_mean_, channel_squares_;  ///< the last: sum of (x - mean)^2
};

/// Bytes that one takes for an input of `channels` channels.
int64_t summary_bytes(int64_t channels);

}  // namespace autoglm::calibrate
