#include "compress/tensor/rounding_error.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "compress/tensor/bridge.h"

namespace autoglm::tensor {
namespace {

using format::Strategy;

/// Integers and grids of a matrix, at random.
format::QuantizedWeight random_weight(int64_t rows, int64_t cols, Strategy strategy, bool symmetric) {
  format::QuantizedWeight out;
  out.args.num_bits = 4;
  out.args.strategy = strategy;
  out.args.group_size = 24;  // no multiple of the lanes
  out.args.symmetric = symmetric;
  out.rows = rows;
  out.cols = cols;
  const int64_t grids = strategy == Strategy::kTensor ? 1 : rows * out.args.groups(cols);
  const at::Tensor integers = at::randint(-8, 8, {rows * cols}, at::kChar), scales = at::rand({grids}) + 0.1;
  out.values.assign(integers.const_data_ptr<int8_t>(), integers.const_data_ptr<int8_t>() + integers.numel());
  out.scales.assign(scales.const_data_ptr<float>(), scales.const_data_ptr<float>() + scales.numel());
  for (int64_t i = 0; !symmetric && i < grids; ++i) out.zero_points.push_back(static_cast<int8_t>(i % 5));
  return out;
}

TEST(RoundingError, IsWhatTheDequantizedTensorGives) {
  at::manual_seed(3);
  for (const Strategy strategy : {Strategy::kTensor, Strategy::kChannel, Strategy::kGroup}) {
    for (const bool symmetric : {true, false}) {
      const auto weight = random_weight(9, 72, strategy, symmetric);
      const at::Tensor values = at::randn({9, 72}), rounded = dequantize(weight, at::kFloat).to(at::kDouble);
      const at::Tensor w = values.to(at::kDouble);
      RoundingError sums;
      for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 4}, {4, 5}}) {
        const at::Tensor rows = values.narrow(0, first, count).contiguous();
        sums += rounding_error({rows.const_data_ptr<float>(), static_cast<size_t>(rows.numel())}, weight, first);
      }
      EXPECT_NEAR(sums.weight, (w * w).sum().item<double>(), 1e-3);
      EXPECT_NEAR(sums.rounded, (rounded * rounded).sum().item<double>(), 1e-2);
      EXPECT_NEAR(sums.product, (w * rounded).sum().item<double>(), 1e-2);
      EXPECT_NEAR(sums.difference, (rounded - w).square().sum().item<double>(), 1e-2);
    }
  }
}

TEST(RoundingError, DoesNotDependOnThreads) {
  const auto weight = random_weight(64, 48, Strategy::kGroup, true);
  const at::Tensor values = at::randn({64, 48});
  const std::span<const float> span(values.const_data_ptr<float>(), static_cast<size_t>(values.numel()));
  const RoundingError usual = rounding_error(span, weight, 0);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const RoundingError alone = rounding_error(span, weight, 0);
  at::set_num_threads(threads);
  EXPECT_EQ(usual.difference, alone.difference);
  EXPECT_EQ(usual.product, alone.product);
}

}  // namespace
}  // namespace autoglm::tensor
