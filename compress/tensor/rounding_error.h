#pragma once
/// What rounding did to weights, in one pass over them: no tensor of what the integers stand for is made.
#include <cstdint>
#include <span>

#include "core/format/quantized_weight.h"

namespace autoglm::tensor {

/// Sums over weights w and what their integers stand for, r.
struct RoundingError {
  double weight = 0;      ///< w^2
  double rounded = 0;     ///< r^2
  double product = 0;     ///< w r
  double difference = 0;  ///< (r - w)^2

  RoundingError& operator+=(const RoundingError& other);
};

/// Over the values [cols] of row `row` of the float weight that `quantized` stands for.
RoundingError rounding_error_of_row(const float* values, const format::QuantizedWeight& quantized, int64_t row);

/// Over `values`, the rows [first, ..) of that weight. Rows are spread over LibTorch's
/// threads and added up in order: the sums do not depend on the number of threads.
RoundingError rounding_error(std::span<const float> values, const format::QuantizedWeight& quantized, int64_t first);

}  // namespace autoglm::tensor
