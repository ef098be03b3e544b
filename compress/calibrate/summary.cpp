#include "compress/calibrate/summary.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <span>

namespace autoglm::calibrate {
namespace {

constexpr int64_t kValuesPerTask = 1 << 18;

/// Counts are integers: the order in which threads add theirs does not matter.
void count_values(const at::Tensor& x, Histogram& into) {
  const at::Tensor values = x.to(at::kCPU).contiguous();
  const float* data = values.const_data_ptr<float>();
  std::mutex mutex;
  at::parallel_for(0, values.numel(), kValuesPerTask, [&](int64_t begin, int64_t end) {
    Histogram own;
    own.add({data + begin, static_cast<size_t>(end - begin)});
    const std::lock_guard lock(mutex);
    into.merge(own);
  });
}

}  // namespace

bool InputSummary::add(const at::Tensor& x) {
  if (x.size(0) == 0) return true;
  const auto [low, high] = at::aminmax(x, 1);
  const auto [channel_low, channel_high] = at::aminmax(x, 0);
  const auto [variance, mean] = at::var_mean(x, 0, /*unbiased=*/false);
  const at::Tensor token_absmax = at::maximum(high, low.neg());
  InputSummary batch;
  batch.observed_.min = low.min().item<double>();
  batch.observed_.max = high.max().item<double>();
  if (!std::isfinite(batch.observed_.min) || !std::isfinite(batch.observed_.max)) return false;  // NaN comes through
  batch.tokens_ = x.size(0);
  batch.token_absmax_min_ = token_absmax.min().item<double>();
  batch.token_absmax_sum_ = token_absmax.sum(at::kDouble).item<double>();
  batch.channel_min_ = channel_low;
  batch.channel_max_ = channel_high;
  batch.channel_mean_ = mean.to(at::kDouble);
  batch.channel_squares_ = variance.to(at::kDouble) * static_cast<double>(x.size(0));
  count_values(x, batch.observed_.histogram);
  absorb(batch);
  average(low.to(at::kCPU).contiguous(), high.to(at::kCPU).contiguous());
  return true;
}

void InputSummary::average(const at::Tensor& low, const at::Tensor& high) {
  const float* lows = low.const_data_ptr<float>();
  const float* highs = high.const_data_ptr<float>();
  for (int64_t i = 0; i < low.size(0); ++i) {
    const auto least = static_cast<double>(lows[i]), most = static_cast<double>(highs[i]);
    step_min_ = step_tokens_ == 0 ? least : std::min(step_min_, least);
    step_max_ = step_tokens_ == 0 ? most : std::max(step_max_, most);
    if (++step_tokens_ == kStep) finish_step();
  }
  if (steps_ == 0)
    observed_.average_min = step_min_, observed_.average_max = step_max_;  // fewer tokens than one step so far
}

void InputSummary::finish_step() {
  const double share = steps_ == 0 ? 1 : kAveragingConstant;
  observed_.average_min += share * (step_min_ - observed_.average_min);
  observed_.average_max += share * (step_max_ - observed_.average_max);
  step_tokens_ = 0;
  ++steps_;
}

void InputSummary::absorb(const InputSummary& other) {
  if (tokens_ == 0) {
    *this = other;
    return;
  }
  observed_.min = std::min(observed_.min, other.observed_.min);
  observed_.max = std::max(observed_.max, other.observed_.max);
  observed_.histogram.merge(other.observed_.histogram);
  token_absmax_sum_ += other.token_absmax_sum_;
  token_absmax_min_ = std::min(token_absmax_min_, other.token_absmax_min_);
  channel_min_ = at::minimum(channel_min_, other.channel_min_);
  channel_max_ = at::maximum(channel_max_, other.channel_max_);
  const auto mine = static_cast<double>(tokens_), theirs = static_cast<double>(other.tokens_);
  const at::Tensor difference = other.channel_mean_ - channel_mean_;
  channel_mean_ = channel_mean_ + difference * (theirs / (mine + theirs));
  channel_squares_ =
      channel_squares_ + other.channel_squares_ + difference.square() * (mine * theirs / (mine + theirs));
  tokens_ += other.tokens_;
}

void InputSummary::merge(const InputSummary& other) {
  if (other.tokens_ == 0) return;
  const double share = static_cast<double>(other.tokens_) / static_cast<double>(tokens_ + other.tokens_);
  observed_.average_min += share * (other.observed_.average_min - observed_.average_min);
  observed_.average_max += share * (other.observed_.average_max - observed_.average_max);
  steps_ = std::max<int64_t>(1, steps_ + other.steps_);
  step_tokens_ = 0;
  absorb(other);
}

double InputSummary::mean() const { return tokens_ > 0 ? channel_mean_.mean().item<double>() : 0; }

double InputSummary::variance() const {
  if (tokens_ == 0) return 0;
  const double between = channel_mean_.var(/*unbiased=*/false).item<double>();
  return channel_variance().mean().item<double>() + between;
}

at::Tensor InputSummary::channel_variance() const {
  return tokens_ > 0 ? channel_squares_ / static_cast<double>(tokens_) : at::Tensor();
}

int64_t summary_bytes(int64_t channels) {
  return channels * static_cast<int64_t>(2 * sizeof(float) + 2 * sizeof(double)) +
         Histogram::kBins * static_cast<int64_t>(sizeof(int64_t));
}

}  // namespace autoglm::calibrate
