#pragma once
/// Weights, inputs and reference results for the tests of this room.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <string>

#include "compress/pass/pass.h"
#include "compress/tensor/bridge.h"

namespace autoglm::quant::testing {

/// One that is never cancelled.
inline CancelToken& cancel() {
  static CancelToken token;
  return token;
}

inline at::Tensor random_normal(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::detail::createCPUGenerator(seed), at::kFloat);
}

/// Inputs [tokens, width] whose channels are correlated and of very different size, as those of a trained model are.
inline at::Tensor correlated_inputs(int64_t tokens, int64_t width, uint64_t seed) {
  const at::Tensor mixing = random_normal({width, width}, seed) / std::sqrt(static_cast<double>(width));
  const at::Tensor spread = at::exp(random_normal({width}, seed + 1));
  return at::mm(random_normal({tokens, width}, seed + 2), mixing + 0.5 * at::eye(width)) * spread;
}

inline pass::Target target_of(const at::Tensor& weight, const std::string& word,
                              format::DType scale = format::DType::kF32) {
  pass::Target target;
  target.name = "layer.proj";
  target.rows = weight.size(0);
  target.cols = weight.size(1);
  target.scheme = pass::Scheme::parse(word).value();
  target.scale_dtype = scale;
  target.read = [weight](int64_t first, int64_t count) -> Result<at::Tensor> { return weight.narrow(0, first, count); };
  return target;
}

inline calibrate::InputStatistics statistics_of(const at::Tensor& x,
                                                const calibrate::Needs& needs = {.hessian = true}) {
  calibrate::StatisticsBuilder builder(needs, x.size(0));
  for (const at::Tensor& batch : x.split(100)) builder.add(batch);
  return builder.finish("layer.proj").value();
}

inline const format::QuantizedWeight& quantized(const pass::Target& target) {
  return std::get<format::QuantizedWeight>(target.result);
}

inline at::Tensor dequantized(const pass::Target& target) { return tensor::dequantize(quantized(target), at::kFloat); }

/// |X (W - Q)^T|^2 in float64.
inline double output_error(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& quantized) {
  const at::Tensor error = (weight.to(at::kDouble) - quantized.to(at::kDouble)).t();
  return at::mm(x.to(at::kDouble), error).square().sum().item<double>();
}

}  // namespace autoglm::quant::testing
