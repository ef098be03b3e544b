#pragma once
/// Grids: the scale and zero point of every group of a weight, and rounding to them.
///
/// real = (q - zero_point) * scale, q in [q_min, q_max]. A scale is rounded to the type it is stored in before anything
/// is quantized with it, so that what is measured here is what a reader of the file gets.
#include <ATen/core/Tensor.h>

#include <cstdint>

#include "compress/pass/pass.h"
#include "compress/pass/scheme.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/quantized_weight.h"

namespace autoglm::quant {

/// The grid of one group.
struct GroupGrid {
  float scale = 1;
  int zero_point = 0;
};

/// Finds the grid of `count` finite values.
/// kMinMax: the smallest scale (rounded up to the stored type) with |x - real(q(x))| <= scale / 2 everywhere.
/// kMse: of that one, narrower ones and their least-squares refit the one with the smallest sum of
/// importance[i] * error[i]^2; `importance` may be null (all one).
/// Groups of zeros get scale 1; tiny ones the smallest normal scale.
GroupGrid fit_group(const float* values, const float* importance, int64_t count, const pass::Scheme& scheme,
                    format::DType scale_dtype);

/// The grids that kMse tries: `index` 0 clips nothing, each further one up to kNarrowerGrids shrinks the range of the
/// values by another step, as far as is worth trying for these bits. Zeros have one grid alone.
inline constexpr int64_t kNarrowerGrids = 16;
GroupGrid narrower_grid(const float* values, int64_t count, int64_t index, const pass::Scheme& scheme,
                        format::DType scale_dtype);

/// out[i] = values[i] - real(q(values[i])) for `count` values on one grid.
void group_residual(const float* values, int64_t count, const GroupGrid& grid, const pass::Scheme& scheme, float* out);

/// q of `count` values on one grid.
void quantize_group(const float* values, int64_t count, const GroupGrid& grid, const pass::Scheme& scheme, int8_t* out);

/// sum of importance * error^2 of `count` values on a grid, in float with 16 running sums.
float group_error(const float* values, const float* importance, int64_t count, const GroupGrid& grid,
                  const pass::Scheme& scheme);

/// An empty result for `target`, or for `rows` of its rows: every size set, values and scales zero.
format::QuantizedWeight make_result(const pass::Target& target);
format::QuantizedWeight make_result(const pass::Target& target, int64_t rows);

/// Fits the grids of row `row` of `out` to its values [cols]; not for Strategy::kTensor. `importance` is null or
/// [cols]. kBadInput: a value is NaN or infinite (names row, column).
Status fit_row(const float* values, const float* importance, int64_t row, const pass::Scheme& scheme,
               format::QuantizedWeight& out);

/// The same for `rows` [count, cols] (float32, contiguous), rows first.. of `out`; parallel over rows.
/// `importance` is undefined or [cols].
Status fit_rows(const at::Tensor& rows, const at::Tensor& importance, int64_t first, const pass::Scheme& scheme,
                format::QuantizedWeight& out);

/// Fits the one grid of Strategy::kTensor over a weight read in pieces: a pass for the range, one for the candidates.
Status fit_tensor(const pass::Target& target, const at::Tensor& importance, CancelToken& cancel,
                  format::QuantizedWeight& out);

/// Fits every grid of `target` into `out`, whatever the strategy.
Status fit_target(const pass::Target& target, const at::Tensor& importance, CancelToken& cancel,
                  format::QuantizedWeight& out);

/// Rounds a row's values to the grids in `out` (already fitted) into its integers.
void quantize_row(const float* values, int64_t row, const pass::Scheme& scheme, format::QuantizedWeight& out);

/// The same for `rows`, rows first.. of `out`; parallel over rows.
void quantize_rows(const at::Tensor& rows, int64_t first, const pass::Scheme& scheme, format::QuantizedWeight& out);

/// Columns of one group: all of a row but for Strategy::kGroup.
int64_t group_columns(const format::QuantizedWeight& weight);

/// The grid of group `group` of row `row`, whatever the strategy.
GroupGrid grid_at(const format::QuantizedWeight& weight, int64_t row, int64_t group);
void set_grid(format::QuantizedWeight& weight, int64_t row, int64_t group, const GroupGrid& grid);

}  // namespace autoglm::quant
