#include "compress/model/linear.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

namespace autoglm::model {

at::Tensor Linear::operator()(const at::Tensor& x) const {
  const at::Tensor input = input_activations ? fake_quantize(x, *input_activations) : x;
  return bias.defined() ? at::linear(input, weight, bias) : at::linear(input, weight);
}

at::Tensor fake_quantize(const at::Tensor& x, const format::QuantArgs& args) {
  if (x.numel() == 0) return x;
  if (at::GradMode::is_enabled() && x.requires_grad()) {  // rounding has no slope: its gradient passes straight through
    const at::Tensor values = x.detach();
    return x + (fake_quantize(values, args) - values);
  }
  const bool per_token = args.strategy == format::Strategy::kToken;
  TORCH_CHECK(args.dynamic && (per_token || args.strategy == format::Strategy::kTensor),
              "activations can be quantized dynamically per token or per tensor only");
  auto [low, high] = per_token ? at::aminmax(x, -1, /*keepdim=*/true) : at::aminmax(x);
  low = low.clamp_max(0);  // zero must be representable
  high = high.clamp_min(0);

  const double range = args.q_max() - args.q_min();
  at::Tensor scale = args.symmetric ? at::maximum(low.neg(), high).div(range / 2) : (high - low).div(range);
  at::Tensor zero_point;
  if (!args.symmetric) {
    zero_point = args.q_min() - low / scale;                                          // 0/0 for a token of zeros:
    zero_point = zero_point.nan_to_num(0).clamp(args.q_min(), args.q_max()).round();  // any zero point will do
  }
  const double eps = x.scalar_type() == at::kHalf ? 0x1p-10 : x.scalar_type() == at::kBFloat16 ? 0x1p-7 : 0x1p-23;
  scale.masked_fill_(scale == 0, eps);

  at::Tensor q = x / scale;
  if (zero_point.defined()) q.add_(zero_point);
  q.clamp_(args.q_min(), args.q_max()).round_();
  if (zero_point.defined()) q.sub_(zero_point);
  return q.mul_(scale);
}

}  // namespace autoglm::model
