#include "compress/quant/grid.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>

#include "core/base/simd.h"

namespace autoglm::quant {
namespace {

using format::DType;
using format::QuantizedWeight;
using format::Strategy;
using pass::ScaleSearch;
using pass::Scheme;

constexpr int64_t kLanes = 16;
constexpr int64_t kRowsPerTask = 4;

struct Range {
  float low = 0, high = 0;  // always holds zero
};

/// (value * inverse) clamped to [low, high] and rounded is q - zero_point.
struct Rounding {
  float inverse, scale, low, high;

  Rounding(const GroupGrid& grid, const Scheme& scheme)
      : inverse(1.0f / grid.scale),
        scale(grid.scale),
        low(static_cast<float>(scheme.q_min() - grid.zero_point)),
        high(static_cast<float>(scheme.q_max() - grid.zero_point)) {}

  float operator()(float value) const { return round_to_even(std::min(std::max(value * inverse, low), high)); }
};

float sum_lanes(const float (&lanes)[kLanes]) {
  float total = 0;
  for (const float lane : lanes) total += lane;
  return total;
}

AUTOGLM_CLONES
Range range_of(const float* values, int64_t count) {
  float low[kLanes] = {}, high[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) {
      low[l] = std::min(low[l], values[i + l]);
      high[l] = std::max(high[l], values[i + l]);
    }
  }
  for (; i < count; ++i) {
    low[0] = std::min(low[0], values[i]);
    high[0] = std::max(high[0], values[i]);
  }
  return {*std::min_element(low, low + kLanes), *std::max_element(high, high + kLanes)};
}

/// True when every value is finite: x - x is zero for those alone.
AUTOGLM_CLONES
bool all_finite(const float* values, int64_t count) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] += values[i + l] - values[i + l];
  }
  for (; i < count; ++i) lanes[0] += values[i] - values[i];
  return sum_lanes(lanes) == 0.0f;
}

AUTOGLM_CLONES
float error_plain(const float* values, int64_t count, Rounding round) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) {
      const float error = values[i + l] - round(values[i + l]) * round.scale;
      lanes[l] += error * error;
    }
  }
  for (; i < count; ++i) {
    const float error = values[i] - round(values[i]) * round.scale;
    lanes[0] += error * error;
  }
  return sum_lanes(lanes);
}

AUTOGLM_CLONES
float error_weighted(const float* values, const float* importance, int64_t count, Rounding round) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) {
      const float error = values[i + l] - round(values[i + l]) * round.scale;
      lanes[l] += importance[i + l] * error * error;
    }
  }
  for (; i < count; ++i) {
    const float error = values[i] - round(values[i]) * round.scale;
    lanes[0] += importance[i] * error * error;
  }
  return sum_lanes(lanes);
}

AUTOGLM_CLONES
void quantize_plain(const float* values, int64_t count, Rounding round, int zero_point, int8_t* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<int8_t>(static_cast<int>(round(values[i])) + zero_point);
}

/// The scale that minimizes the error while q stays as it is: sum(h x q) / sum(h q^2) with q counted from zero_point.
AUTOGLM_CLONES
float refit_scale(const float* values, const float* importance, int64_t count, Rounding round) {
  float crosses[kLanes] = {}, squares[kLanes] = {};
  const auto add = [&](int64_t l, float value, float weight) {
    const float q = round(value);
    crosses[l] += weight * value * q;
    squares[l] += weight * q * q;
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    if (importance != nullptr) {
      for (int64_t l = 0; l < kLanes; ++l) add(l, values[i + l], importance[i + l]);
    } else {
      for (int64_t l = 0; l < kLanes; ++l) add(l, values[i + l], 1.0f);
    }
  }
  for (; i < count; ++i) add(0, values[i], importance != nullptr ? importance[i] : 1.0f);
  const float cross = sum_lanes(crosses), square = sum_lanes(squares);
  return square > 0 ? cross / square : 0.0f;
}

/// The smallest value of the stored type that is not below `scale`.
float rounded_up_to(DType dtype, float scale) {
  const float least = format::smallest_scale(dtype);
  if (!(scale > least)) return least;
  const float rounded = format::rounded_to(dtype, scale);
  if (rounded >= scale) return rounded;
  const float step = dtype == DType::kBF16  ? scale * 0x1p-8f
                     : dtype == DType::kF16 ? std::max(scale * 0x1p-10f, least)
                                            : 0.0f;
  return format::rounded_to(dtype, scale + step);
}

/// Without clipping error above half a step: codes may be overshot by one half on either side before rounding.
float unclipped_scale(const Range& range, const Scheme& scheme) {
  if (!scheme.weights.symmetric) {
    return range.high / static_cast<float>(scheme.q_max() - scheme.q_min()) -
           range.low / static_cast<float>(scheme.q_max() - scheme.q_min());
  }
  return std::max(range.high / (static_cast<float>(scheme.q_max()) + 0.5f),
                  -range.low / (-static_cast<float>(scheme.q_min()) + 0.5f));
}

int zero_point_for(const Range& range, float scale, const Scheme& scheme) {
  if (scheme.weights.symmetric) return 0;
  const float point = static_cast<float>(scheme.q_min()) - range.low / scale;
  return static_cast<int>(
      std::nearbyint(std::clamp(point, static_cast<float>(scheme.q_min()), static_cast<float>(scheme.q_max()))));
}

/// How far the search narrows the range: low bits gain from clipping more than high ones.
float narrowest(int bits) {
  constexpr std::array<float, 9> kNarrowest = {0.3f, 0.3f, 0.3f, 0.4f, 0.55f, 0.65f, 0.75f, 0.8f, 0.85f};
  return kNarrowest[static_cast<size_t>(bits)];
}

GroupGrid candidate(const Range& range, float factor, const Scheme& scheme, DType dtype) {
  const Range narrowed{range.low * factor, range.high * factor};
  const float wanted = unclipped_scale(narrowed, scheme);
  GroupGrid grid;
  grid.scale = factor == 1.0f ? rounded_up_to(dtype, wanted) : format::nearest_scale(dtype, wanted);
  grid.zero_point = zero_point_for(narrowed, grid.scale, scheme);
  return grid;
}

float factor_of(int64_t index, const Scheme& scheme) {
  const float step = (1.0f - narrowest(scheme.weights.num_bits)) / static_cast<float>(kNarrowerGrids);
  return 1.0f - step * static_cast<float>(index);
}

GroupGrid fit_range(const Range& range, const Scheme& scheme, DType dtype) {
  if (range.low == 0.0f && range.high == 0.0f) return {};
  return candidate(range, 1.0f, scheme, dtype);
}

/// Of `count` values in rows of `cols`, the first of which is row `first`.
Status not_finite(const float* data, int64_t count, int64_t cols, int64_t first) {
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(data[i])) {
      return bad_input(fmt::format("the weight is {} at row {}, column {}", std::isnan(data[i]) ? "NaN" : "infinite",
                                   first + i / cols, i % cols));
    }
  }
  return internal_error("the weight was reported as not finite, but is");
}

Status not_finite(const at::Tensor& rows, int64_t first) {
  return not_finite(rows.const_data_ptr<float>(), rows.numel(), rows.size(1), first);
}

const float* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<float>() : nullptr;
}

}  // namespace

float group_error(const float* values, const float* importance, int64_t count, const GroupGrid& grid,
                  const Scheme& scheme) {
  const Rounding round(grid, scheme);
  return importance != nullptr ? error_weighted(values, importance, count, round) : error_plain(values, count, round);
}

GroupGrid narrower_grid(const float* values, int64_t count, int64_t index, const Scheme& scheme, DType dtype) {
  const Range range = range_of(values, count);
  return index == 0 ? fit_range(range, scheme, dtype) : candidate(range, factor_of(index, scheme), scheme, dtype);
}

AUTOGLM_CLONES
void group_residual(const float* values, int64_t count, const GroupGrid& grid, const Scheme& scheme, float* out) {
  const Rounding round(grid, scheme);
  for (int64_t i = 0; i < count; ++i) out[i] = values[i] - round(values[i]) * round.scale;
}

void quantize_group(const float* values, int64_t count, const GroupGrid& grid, const Scheme& scheme, int8_t* out) {
  quantize_plain(values, count, Rounding(grid, scheme), grid.zero_point, out);
}

GroupGrid fit_group(const float* values, const float* importance, int64_t count, const Scheme& scheme, DType dtype) {
  const Range range = range_of(values, count);
  GroupGrid best = fit_range(range, scheme, dtype);
  if (scheme.search == ScaleSearch::kMinMax || (range.low == 0.0f && range.high == 0.0f)) return best;
  float least = group_error(values, importance, count, best, scheme);
  const auto consider = [&](const GroupGrid& grid) {
    const float error = group_error(values, importance, count, grid, scheme);
    if (!(error < least)) return;  // also for the NaN of overflowing squares
    least = error;
    best = grid;
  };
  for (int64_t i = 1; i <= kNarrowerGrids; ++i) consider(candidate(range, factor_of(i, scheme), scheme, dtype));
  GroupGrid refit = best;
  refit.scale = format::rounded_to(dtype, refit_scale(values, importance, count, Rounding(best, scheme)));
  if (refit.scale >= format::smallest_scale(dtype)) consider(refit);
  return best;
}

QuantizedWeight make_result(const pass::Target& target) { return make_result(target, target.rows); }

QuantizedWeight make_result(const pass::Target& target, int64_t rows) {
  QuantizedWeight out;
  out.args = target.scheme.weights;
  out.rows = rows;
  out.cols = target.cols;
  out.scale_dtype = target.scale_dtype;
  const bool one = out.args.strategy == Strategy::kTensor;
  const size_t grids = one ? 1 : static_cast<size_t>(rows * out.args.groups(target.cols));
  out.values.resize(static_cast<size_t>(rows * target.cols));
  out.scales.resize(grids);
  if (!out.args.symmetric) out.zero_points.resize(grids);
  return out;
}

int64_t group_columns(const QuantizedWeight& weight) {
  return weight.args.strategy == Strategy::kGroup ? weight.args.group_size : weight.cols;
}

void set_grid(QuantizedWeight& weight, int64_t row, int64_t group, const GroupGrid& grid) {
  const size_t at = static_cast<size_t>(row * weight.args.groups(weight.cols) + group);
  weight.scales[at] = grid.scale;
  if (!weight.zero_points.empty()) weight.zero_points[at] = static_cast<int8_t>(grid.zero_point);
}

GroupGrid grid_at(const QuantizedWeight& weight, int64_t row, int64_t group) {
  const bool one = weight.args.strategy == Strategy::kTensor;
  const size_t at = one ? 0 : static_cast<size_t>(row * weight.args.groups(weight.cols) + group);
  return {weight.scales[at], weight.zero_points.empty() ? 0 : weight.zero_points[at]};
}

Status fit_row(const float* values, const float* importance, int64_t row, const Scheme& scheme, QuantizedWeight& out) {
  const int64_t width = group_columns(out), groups = out.args.groups(out.cols);
  if (!all_finite(values, out.cols)) return not_finite(values, out.cols, out.cols, row);
  for (int64_t g = 0; g < groups; ++g) {
    const float* group_importance = importance != nullptr ? importance + g * width : nullptr;
    set_grid(out, row, g, fit_group(values + g * width, group_importance, width, scheme, out.scale_dtype));
  }
  return ok_status();
}

Status fit_rows(const at::Tensor& rows, const at::Tensor& importance, int64_t first, const Scheme& scheme,
                QuantizedWeight& out) {
  const float* data = rows.const_data_ptr<float>();
  const float* weights = data_or_null(importance);
  std::atomic<bool> finite{true};
  at::parallel_for(0, rows.size(0), kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (!fit_row(data + r * out.cols, weights, first + r, scheme, out).ok()) finite = false;
    }
  });
  return finite ? ok_status() : not_finite(rows, first);
}

Status fit_tensor(const pass::Target& target, const at::Tensor& importance, CancelToken& cancel, QuantizedWeight& out) {
  Range range;
  AUTOGLM_RETURN_IF_ERROR(pass::for_each_piece(target, cancel, [&](int64_t first, const at::Tensor& rows) -> Status {
    const float* data = rows.const_data_ptr<float>();
    if (!all_finite(data, rows.numel())) return not_finite(rows, first);
    const Range piece = range_of(data, rows.numel());
    range = {std::min(range.low, piece.low), std::max(range.high, piece.high)};
    return ok_status();
  }));
  const Scheme& scheme = target.scheme;
  GroupGrid best = fit_range(range, scheme, out.scale_dtype);
  if (scheme.search == ScaleSearch::kMse && (range.low != 0.0f || range.high != 0.0f)) {
    std::array<GroupGrid, kNarrowerGrids + 1> grids;
    std::array<double, kNarrowerGrids + 1> errors{};
    for (int64_t i = 0; i <= kNarrowerGrids; ++i) {
      grids[static_cast<size_t>(i)] = candidate(range, factor_of(i, scheme), scheme, out.scale_dtype);
    }
    AUTOGLM_RETURN_IF_ERROR(pass::for_each_piece(target, cancel, [&](int64_t, const at::Tensor& rows) {
      const float* data = rows.const_data_ptr<float>();
      const int64_t cols = rows.size(1);
      at::parallel_for(0, kNarrowerGrids + 1, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          for (int64_t r = 0; r < rows.size(0); ++r) {
            errors[static_cast<size_t>(i)] +=
                group_error(data + r * cols, data_or_null(importance), cols, grids[static_cast<size_t>(i)], scheme);
          }
        }
      });
      return ok_status();
    }));
    best = grids[static_cast<size_t>(std::min_element(errors.begin(), errors.end()) - errors.begin())];
  }
  out.scales[0] = best.scale;
  if (!out.zero_points.empty()) out.zero_points[0] = static_cast<int8_t>(best.zero_point);
  return ok_status();
}

Status fit_target(const pass::Target& target, const at::Tensor& importance, CancelToken& cancel, QuantizedWeight& out) {
  if (out.args.strategy == Strategy::kTensor) return fit_tensor(target, importance, cancel, out);
  return pass::for_each_piece(target, cancel, [&](int64_t first, const at::Tensor& rows) {
    return fit_rows(rows, importance, first, target.scheme, out);
  });
}

void quantize_row(const float* values, int64_t row, const Scheme& scheme, QuantizedWeight& out) {
  const int64_t cols = out.cols, width = group_columns(out);
  for (int64_t g = 0; g * width < cols; ++g) {
    quantize_group(values + g * width, std::min(width, cols - g * width), grid_at(out, row, g), scheme,
                   out.values.data() + row * cols + g * width);
  }
}

void quantize_rows(const at::Tensor& rows, int64_t first, const Scheme& scheme, QuantizedWeight& out) {
  const float* data = rows.const_data_ptr<float>();
  at::parallel_for(0, rows.size(0), kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) quantize_row(data + r * out.cols, first + r, scheme, out);
  });
}

}  // namespace autoglm::quant
