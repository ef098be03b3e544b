#pragma once
/// Observers: the range of a static quantization of activations, from what calibration saw of them.
#include <string>
#include <string_view>
#include <vector>

#include "compress/calibrate/histogram.h"
#include "core/base/status.h"
#include "core/format/quant_scheme.h"

namespace autoglm::calibrate {

/// What is known of the values of one tensor.
struct Observed {
  double min = 0, max = 0;
  double average_min = 0, average_max = 0;  ///< moving averages of the range
  Histogram histogram;
};

/// What decides which magnitudes are clipped:
enum class Observer {
  kMinMax,         ///< none that was seen
  kMovingAverage,  ///< those above the moving average of ranges (torch.ao.quantization's MovingAverageMinMaxObserver)
  kPercentile,     ///< one value in 10,000
  kMse,            ///< what leaves the least squared error of rounding and clipping
  kEntropy,        ///< what leaves the least KL divergence of the values' distribution (Migacz 2017, "8-bit inference
                   ///< with TensorRT")
};

/// "minmax", "moving-average", "percentile", "mse", "entropy".
const std::vector<std::string>& observer_names();
std::string_view to_string(Observer observer);
/// kInvalidArgument: unknown, with the nearest known one.
Result<Observer> parse_observer(std::string_view name);

/// The scale of symmetric integers of `args`: the largest magnitude that is not clipped is q_max scales. Above 0, also
/// where nothing but zeros was seen.
double static_scale(const Observed& seen, Observer observer, const format::QuantArgs& args);

}  // namespace autoglm::calibrate
