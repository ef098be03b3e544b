#include "compress/calibrate/statistics.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

namespace autoglm::calibrate {
namespace {

/// The Hessian is symmetric: only the panels on and above the diagonal are multiplied, in columns of this width.
constexpr int64_t kPanel = 192;

bool all_finite(const at::Tensor& tensor) { return !tensor.defined() || at::isfinite(tensor).all().item<bool>(); }

}  // namespace

Needs Needs::operator|(const Needs& other) const {
  return {hessian || other.hessian, drift || other.drift, moments || other.moments, summary || other.summary,
          std::max(sample_tokens, other.sample_tokens)};
}

void StatisticsBuilder::add(const at::Tensor& input, const at::Tensor& source) {
  const at::Tensor x = input.to(at::kFloat);
  if (x.size(0) == 0) return;
  if (needs_.hessian) add_hessian(x);
  if (needs_.drift && source.defined()) {
    if (!sums_.drift.defined()) sums_.drift = at::zeros({x.size(1), x.size(1)}, x.options());
    sums_.drift.addmm_((source.to(at::kFloat) - x).t(), x);
  }
  if (needs_.moments) {
    const at::Tensor size = x.abs();
    const at::Tensor absmax = size.amax(0), mean = x.sum(0), mean_abs = size.sum(0), square = x.square().sum(0);
    if (sums_.absmax.defined()) {
      sums_.absmax = at::maximum(sums_.absmax, absmax);
      sums_.mean.add_(mean);
      sums_.mean_abs.add_(mean_abs);
      sums_.mean_square.add_(square);
    } else {
      sums_.absmax = absmax;
      sums_.mean = mean;
      sums_.mean_abs = mean_abs;
      sums_.mean_square = square;
    }
  }
  if (needs_.summary && finite_) finite_ = sums_.summary.add(x);
  if (needs_.sample_tokens > 0) add_sample(x);
  sums_.tokens += x.size(0);
}

void StatisticsBuilder::add_hessian(const at::Tensor& x) {
  const int64_t width = x.size(1);
  if (!sums_.hessian.defined()) sums_.hessian = at::zeros({width, width}, x.options());
  for (int64_t first = 0; first < width; first += kPanel) {
    const int64_t last = std::min(first + kPanel, width);
    at::Tensor panel = sums_.hessian.slice(0, 0, last).slice(1, first, last);
    panel.addmm_(x.slice(1, 0, last).t(), x.slice(1, first, last));
  }
}

void StatisticsBuilder::add_sample(const at::Tensor& x) {
  const int64_t spacing = std::max<int64_t>(1, expected_tokens_ / needs_.sample_tokens);
  const int64_t phase = (spacing - sums_.tokens % spacing) % spacing;  // first token of x that the spacing hits
  if (phase >= x.size(0) || sampled_ >= needs_.sample_tokens) return;
  at::Tensor rows = x.slice(0, phase, x.size(0), spacing);
  rows = rows.slice(0, 0, std::min(rows.size(0), needs_.sample_tokens - sampled_));
  if (!sums_.sample.defined()) sums_.sample = at::empty({needs_.sample_tokens, x.size(1)}, x.options());
  sums_.sample.slice(0, sampled_, sampled_ + rows.size(0)).copy_(rows);
  sampled_ += rows.size(0);
}

Result<InputStatistics> StatisticsBuilder::finish(std::string_view where) {
  if (sums_.tokens == 0) return std::move(sums_);
  const double n = static_cast<double>(sums_.tokens);
  if (needs_.hessian) {
    const int64_t width = sums_.hessian.size(0);
    for (int64_t first = 0; first < width; first += kPanel) {
      const int64_t last = std::min(first + kPanel, width);
      sums_.hessian.slice(0, 0, last).slice(1, first, last).mul_(2.0 / n);
      if (first > 0) {
        sums_.hessian.slice(0, first, last)
            .slice(1, 0, first)
            .copy_(sums_.hessian.slice(0, 0, first).slice(1, first, last).t());
      }
    }
    if (!needs_.moments) sums_.mean_square = sums_.hessian.diagonal().div(2.0);
  }
  if (sums_.drift.defined()) sums_.drift.mul_(2.0 / n);
  if (needs_.moments) {
    sums_.mean.div_(n);
    sums_.mean_abs.div_(n);
    sums_.mean_square.div_(n);
  }
  if (needs_.sample_tokens > 0 && sampled_ > 0) sums_.sample = sums_.sample.slice(0, 0, sampled_);
  // A NaN or infinity in any token shows in the diagonal, the sums or (alone) the sample.
  const bool has_drift = sums_.drift.defined();
  if (!finite_ || (has_drift && !all_finite(sums_.drift.sum())) || !all_finite(sums_.mean_square) ||
      !all_finite(sums_.absmax) || !all_finite(sums_.sample)) {
    return bad_input(fmt::format(
        "calibration gave NaN or infinity in the input of {}: the source overflows there; try --compute fp32", where));
  }
  return std::move(sums_);
}

int64_t statistics_bytes(const Needs& needs, int64_t width) {
  int64_t floats = needs.sample_tokens * width;
  if (needs.hessian) floats += width * width;
  if (needs.drift) floats += width * width;
  if (needs.moments) floats += 4 * width;
  return floats * static_cast<int64_t>(sizeof(float)) + (needs.summary ? summary_bytes(width) : 0);
}

}  // namespace autoglm::calibrate
