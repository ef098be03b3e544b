#include "compress/model/linear.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace autoglm::model {
namespace {

/// One value for each token, or one in all.
struct Grid {
  at::Tensor scale, zero_point;  ///< the second undefined: 0
};

Grid dynamic_grid(const at::Tensor& x, const format::QuantArgs& args) {
  const bool per_token = args.strategy == format::Strategy::kToken;
  auto [low, high] = per_token ? at::aminmax(x, -1, /*keepdim=*/true) : at::aminmax(x);
  low = low.clamp_max(0);  // zero must be representable
  high = high.clamp_min(0);
  const double range = args.q_max() - args.q_min();
  Grid grid;
  grid.scale = args.symmetric ? at::maximum(low.neg(), high).div(range / 2) : (high - low).div(range);
  if (!args.symmetric) {
    grid.zero_point = args.q_min() - low / grid.scale;  // 0/0 for a token of zeros: any zero point will do
    grid.zero_point = grid.zero_point.nan_to_num(0).clamp(args.q_min(), args.q_max()).round();
  }
  const double eps = x.scalar_type() == at::kHalf ? 0x1p-10 : x.scalar_type() == at::kBFloat16 ? 0x1p-7 : 0x1p-23;
  grid.scale.masked_fill_(grid.scale == 0, eps);
  return grid;
}

Grid static_grid(const at::Tensor& x, const format::InputQuant& quant) {
  Grid grid{at::full({1}, quant.scale, x.options()), {}};
  if (quant.zero_point != 0) grid.zero_point = at::full({1}, quant.zero_point, x.options());
  return grid;
}

}  // namespace

at::Tensor Linear::operator()(const at::Tensor& x) const {
  const at::Tensor quantized = input ? fake_quantize(x, *input) : x;
  return bias.defined() ? at::linear(quantized, weight, bias) : at::linear(quantized, weight);
}

bool can_fake_quantize(const format::QuantArgs& args) {
  return args.strategy == format::Strategy::kTensor || (args.dynamic && args.strategy == format::Strategy::kToken);
}

at::Tensor fake_quantize(const at::Tensor& x, const format::InputQuant& quant) {
  const format::QuantArgs& args = quant.args;
  if (x.numel() == 0) return x;
  if (at::GradMode::is_enabled() && x.requires_grad()) {  // rounding has no slope: its gradient passes straight through
    const at::Tensor values = x.detach();
    return x + (fake_quantize(values, quant) - values);
  }
  TORCH_CHECK(can_fake_quantize(args), "activations are quantized per tensor, or dynamically per token");
  const Grid grid = args.dynamic ? dynamic_grid(x, args) : static_grid(x, quant);
  at::Tensor q = x / grid.scale;
  if (grid.zero_point.defined()) q.add_(grid.zero_point);
  q.clamp_(args.q_min(), args.q_max()).round_();
  if (grid.zero_point.defined()) q.sub_(grid.zero_point);
  return q.mul_(grid.scale);
}

}  // namespace autoglm::model
