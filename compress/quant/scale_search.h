#pragma once
/// Trying scales for a fold by what rounding does to the outputs of its consumers. Private to the room.
#include <ATen/core/Tensor.h>

#include <functional>
#include <string_view>
#include <vector>

#include "compress/pass/smoother.h"
#include "core/base/cancel.h"
#include "core/base/status.h"

namespace autoglm::quant {

/// Inputs that a search judges by; more would cost time in proportion.
inline constexpr int64_t kSearchTokens = 256;

/// Sum over the consumers of |x W^T - a(x / s) Q(W s)^T|^2 on their sample inputs x: Q rounds to nearest on the
/// consumer's own grids, a quantizes activations where its scheme does. `scales` [channels]. kBadInput: a weight is NaN
/// or infinite.
Result<double> rounding_error(const pass::FoldTarget& target, const at::Tensor& scales, CancelToken& cancel);

/// Leaves in `target` the scales of least `rounding_error` among none and `scales_of(strength)` for every strength (of
/// equals the first), each made storable, and a note "NAME α 0.5".
Status choose_scales(pass::FoldTarget& target, std::string_view name, const std::vector<double>& strengths,
                     const std::function<at::Tensor(double strength)>& scales_of, CancelToken& cancel);

/// Divides positive scales by the root of the product of their extremes: a factor common to all channels changes no
/// rounding, and this one keeps weights and activations near the size that they had.
at::Tensor centred(const at::Tensor& scales);

/// Bytes of working memory and floating-point operations of one search with so many candidates.
int64_t search_bytes(int64_t rows, int64_t cols);
double search_flops(int64_t rows, int64_t cols, size_t candidates);

}  // namespace autoglm::quant
