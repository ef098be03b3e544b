#include "compress/tensor/rounding_error.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/base/simd.h"

namespace autoglm::tensor {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kRowsPerTask = 4;

/// Sums of one row, in lanes that vector units add to side by side.
struct Lanes {
  float weight[kLanes] = {}, rounded[kLanes] = {}, product[kLanes] = {}, difference[kLanes] = {};

  RoundingError total() const {
    const auto sum = [](const float(&lanes)[kLanes]) { return std::accumulate(lanes, lanes + kLanes, 0.0); };
    return {sum(weight), sum(rounded), sum(product), sum(difference)};
  }
};

/// Adds `count` weights that share a grid.
AUTOGLM_CLONES
void add_group(const float* values, const int8_t* integers, int64_t count, float scale, float zero, Lanes& sums) {
  const auto add = [&](int64_t lane, float value, int8_t integer) {
    const float rounded = (static_cast<float>(integer) - zero) * scale, difference = rounded - value;
    sums.weight[lane] += value * value;
    sums.rounded[lane] += rounded * rounded;
    sums.product[lane] += value * rounded;
    sums.difference[lane] += difference * difference;
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) add(lane, values[i + lane], integers[i + lane]);
  }
  for (; i < count; ++i) add(0, values[i], integers[i]);
}

}  // namespace

RoundingError rounding_error_of_row(const float* values, const format::QuantizedWeight& quantized, int64_t row) {
  const auto& args = quantized.args;
  const bool one_grid = args.strategy == format::Strategy::kTensor;
  const int64_t width = args.strategy == format::Strategy::kGroup ? args.group_size : quantized.cols;
  const int8_t* integers = quantized.values.data() + row * quantized.cols;
  Lanes sums;
  for (int64_t first = 0, group = one_grid ? 0 : row * args.groups(quantized.cols); first < quantized.cols;
       first += width, ++group) {
    const auto grid = static_cast<size_t>(group);
    const float zero = quantized.zero_points.empty() ? 0.0F : static_cast<float>(quantized.zero_points[grid]);
    add_group(values + first, integers + first, std::min(width, quantized.cols - first), quantized.scales[grid], zero,
              sums);
  }
  return sums.total();
}

RoundingError& RoundingError::operator+=(const RoundingError& other) {
  weight += other.weight;
  rounded += other.rounded;
  product += other.product;
  difference += other.difference;
  return *this;
}

RoundingError rounding_error(std::span<const float> values, const format::QuantizedWeight& quantized, int64_t first) {
  if (values.empty()) return {};
  const int64_t rows = std::ssize(values) / quantized.cols;
  std::vector<RoundingError> each(static_cast<size_t>(rows));
  at::parallel_for(0, rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      each[static_cast<size_t>(row)] =
          rounding_error_of_row(values.data() + row * quantized.cols, quantized, first + row);
    }
  });
  RoundingError out;
  for (const RoundingError& row : each) out += row;
  return out;
}

}  // namespace autoglm::tensor
