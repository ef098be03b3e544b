#include "compress/calibrate/summary.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <numeric>
#include <optional>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "core/base/simd.h"

namespace autoglm::calibrate {
namespace {

constexpr int64_t kValuesPerTask = 1 << 15, kPieceTokens = 64;

/// Counts are integers: the order in which threads add theirs does not matter.
void count_values(const at::Tensor& x, Histogram& into) {
  const float* data = x.const_data_ptr<float>();
  std::mutex mutex;
  at::parallel_for(0, x.numel(), kValuesPerTask, [&](int64_t begin, int64_t end) {
    Histogram own;
    own.add({data + begin, static_cast<size_t>(end - begin)});
    const std::lock_guard lock(mutex);
    into.merge(own);
  });
}

constexpr int64_t kLanes = 16;  // kept in vector registers

/// Where the sums of channels go, all around the first token: the extremes, sum (x - first), sum (x - first)^2.
struct Sums {
  float *low, *high, *sum, *square;
};

/// The first `lanes` (up to kLanes) channels.
inline __attribute__((always_inline)) void sum_lanes(const float* x, int64_t rows, int64_t channels, int64_t lanes,
                                                     const Sums& out) {
  std::array<float, kLanes> first, low, high, sum{}, square{};
  for (int64_t i = 0; i < lanes; ++i) first[i] = low[i] = high[i] = x[i];
  for (int64_t token = 1; token < rows; ++token) {
    const float* row = x + token * channels;
    for (int64_t i = 0; i < lanes; ++i) {
      const float value = row[i], off = value - first[i];
      low[i] = std::min(low[i], value);
      high[i] = std::max(high[i], value);
      sum[i] += off;
      square[i] += off * off;
    }
  }
  std::copy_n(low.data(), lanes, out.low);
  std::copy_n(high.data(), lanes, out.high);
  std::copy_n(sum.data(), lanes, out.sum);
  std::copy_n(square.data(), lanes, out.square);
}

AUTOGLM_CLONES
void sum_channels(const float* x, int64_t rows, int64_t channels, const Sums& out) {
  const auto from = [&](int64_t c) { return Sums{out.low + c, out.high + c, out.sum + c, out.square + c}; };
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) sum_lanes(x + c, rows, channels, kLanes, from(c));
  if (c < channels) sum_lanes(x + c, rows, channels, channels - c, from(c));
}

/// What is known of the channels of a few tokens; added up in float32 around their first token, so that neither their
/// number nor an offset of the values costs more precision than a few roundings.
struct ChannelSums {
  double tokens;
  std::vector<float> low, high;
  std::vector<double> mean, squares;  // the latter around the mean

  ChannelSums(const float* x, int64_t rows, size_t channels)
      : tokens(static_cast<double>(rows)), low(channels), high(channels), mean(channels), squares(channels) {
    std::vector<float> sum(channels), square(channels);
    sum_channels(x, rows, static_cast<int64_t>(channels), {low.data(), high.data(), sum.data(), square.data()});
    for (size_t i = 0; i < channels; ++i) {
      const double off = sum[i] / tokens;
      mean[i] = x[i] + off;
      squares[i] = std::max(0.0, square[i] - off * off * tokens);
    }
  }

  void merge(const ChannelSums& other) {
    const double all = tokens + other.tokens;
    for (size_t i = 0; i < mean.size(); ++i) {
      const double difference = other.mean[i] - mean[i];
      low[i] = std::min(low[i], other.low[i]);
      high[i] = std::max(high[i], other.high[i]);
      mean[i] += difference * (other.tokens / all);
      squares[i] += other.squares[i] + difference * difference * (tokens * other.tokens / all);
    }
    tokens = all;
  }
};

/// The ends of a token's values; NaN where one of them is NaN or infinite.
AUTOGLM_CLONES
std::pair<float, float> ends_of(const float* x, int64_t channels) {
  std::array<float, kLanes> low, high, zero{};
  low.fill(x[0]);
  high.fill(x[0]);
  int64_t i = 0;
  for (; i + kLanes <= channels; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) {
      const float value = x[i + l];
      const auto lane = static_cast<size_t>(l);
      low[lane] = std::min(low[lane], value);
      high[lane] = std::max(high[lane], value);
      zero[lane] += value - value;
    }
  }
  for (; i < channels; ++i) {
    low[0] = std::min(low[0], x[i]);
    high[0] = std::max(high[0], x[i]);
    zero[0] += x[i] - x[i];
  }
  const float bad = std::accumulate(zero.begin(), zero.end(), 0.0F);
  return {*std::min_element(low.begin(), low.end()) + bad, *std::max_element(high.begin(), high.end()) + bad};
}

}  // namespace

bool InputSummary::add(const at::Tensor& input) {
  const int64_t tokens = input.size(0), channels = input.size(1);
  if (tokens == 0) return true;
  TORCH_CHECK(channels > 0, "an input without channels");
  const at::Tensor x = input.to(at::kCPU).contiguous();
  const float* data = x.const_data_ptr<float>();
  const int64_t pieces = (tokens + kPieceTokens - 1) / kPieceTokens;
  std::vector<std::optional<ChannelSums>> sums(static_cast<size_t>(pieces));
  const at::Tensor low = at::empty({tokens}, at::kFloat), high = at::empty({tokens}, at::kFloat);
  float *lows = low.data_ptr<float>(), *highs = high.data_ptr<float>();
  at::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t first = piece * kPieceTokens, last = std::min(first + kPieceTokens, tokens);
      for (int64_t token = first; token < last; ++token) {
        std::tie(lows[token], highs[token]) = ends_of(data + token * channels, channels);
      }
      sums[static_cast<size_t>(piece)].emplace(data + first * channels, last - first, static_cast<size_t>(channels));
    }
  });
  const at::Tensor token_absmax = at::maximum(high, low.neg());
  InputSummary batch;
  batch.observed_.min = low.min().item<double>();
  batch.observed_.max = high.max().item<double>();
  if (!std::isfinite(batch.observed_.min) || !std::isfinite(batch.observed_.max)) return false;
  batch.tokens_ = tokens;
  batch.token_absmax_min_ = token_absmax.min().item<double>();
  batch.token_absmax_sum_ = token_absmax.sum(at::kDouble).item<double>();
  count_values(x, batch.observed_.histogram);
  ChannelSums& all = *sums[0];
  for (size_t piece = 1; piece < sums.size(); ++piece)
    all.merge(*sums[piece]);  // in order: the same whatever the threads
  batch.channel_min_ = at::tensor(all.low);
  batch.channel_max_ = at::tensor(all.high);
  batch.channel_mean_ = at::tensor(all.mean);
  batch.channel_squares_ = at::tensor(all.squares);
  absorb(batch);
  average(low, high);
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
