#include "compress/quant/gptaq.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "compress/quant/gptq.h"
#include "compress/quant/testing.h"

namespace autoglm::quant {
namespace {

using testing::cancel;
using testing::correlated_inputs;
using testing::dequantized;
using testing::random_normal;
using testing::target_of;

/// Statistics of x with what the source has in its place.
calibrate::InputStatistics statistics_beside(const at::Tensor& x, const at::Tensor& source) {
  calibrate::StatisticsBuilder builder({.hessian = true, .drift = true}, x.size(0));
  const auto now = x.split(100), then = source.split(100);
  for (size_t i = 0; i < now.size(); ++i) builder.add(now[i], then[i]);
  return builder.finish("layer.proj").value();
}

/// |source W^T - x Q^T|^2: what the method is to make small.
double drifted_error(const at::Tensor& source, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& q) {
  const auto product = [](const at::Tensor& a, const at::Tensor& b) {
    return at::mm(a.to(at::kDouble), b.to(at::kDouble).t());
  };
  return (product(source, weight) - product(x, q)).square().sum().item<double>();
}

at::Tensor run(const char* method, const at::Tensor& weight, const std::string& scheme, const at::Tensor& x,
               const at::Tensor& source, const nlohmann::json& options) {
  calibrate::InputStatistics input = statistics_beside(x, source);
  pass::Target target = target_of(weight, scheme);
  target.input = &input;
  std::vector<pass::Target*> stage = {&target};
  const auto pass = method == std::string("gptq") ? make_gptq(options) : make_gptaq(options);
  EXPECT_TRUE(pass.value()->run(stage, cancel()).ok());
  return dequantized(target);
}

class Drifted : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(ActOrder, Drifted, ::testing::Bool());

TEST_P(Drifted, ComesCloserToTheSourcesOutputThanGptq) {
  const at::Tensor weight = random_normal({48, 96}, 1), source = correlated_inputs(800, 96, 2);
  const at::Tensor x = source + 0.2 * at::mm(source, random_normal({96, 96}, 3)) / std::sqrt(96.0);
  for (const char* scheme : {"int4-g32", "int3-channel", "int3-g32-asym"}) {
    SCOPED_TRACE(scheme);
    const nlohmann::json order = {{"act_order", GetParam()}};
    nlohmann::json all = order;
    all["share"] = 1.0;
    const double plain = drifted_error(source, x, weight, run("gptq", weight, scheme, x, source, order));
    const double corrected = drifted_error(source, x, weight, run("gptaq", weight, scheme, x, source, all));
    EXPECT_LT(corrected, 0.8 * plain);
  }
}

TEST_P(Drifted, WithoutDriftItIsGptq) {
  const at::Tensor weight = random_normal({32, 64}, 4), x = correlated_inputs(400, 64, 5);
  const nlohmann::json order = {{"act_order", GetParam()}};
  EXPECT_TRUE(run("gptaq", weight, "int4-g32", x, x, order).equal(run("gptq", weight, "int4-g32", x, x, order)));
}

// With as many bits as a float needs, the least-squares solution itself: q = w (H + C) H^-1.
TEST(Gptaq, StartsFromTheLeastSquaresSolution) {
  const at::Tensor x = correlated_inputs(500, 24, 6), source = x + 0.3 * correlated_inputs(500, 24, 7);
  const calibrate::InputStatistics input = statistics_beside(x, source);
  const HessianFactor factor = factorize(input.hessian.clone(), 1e-8, true, cancel()).value();
  const at::Tensor correction = drift_correction(factor, input.drift, 1.0);
  const at::Tensor order = at::tensor(factor.order, at::kLong);
  const auto ordered = [&](const at::Tensor& m) {
    return m.index_select(0, order).index_select(1, order).to(at::kDouble);
  };
  const at::Tensor r = factor.r.triu().to(at::kDouble);
  EXPECT_LT((at::mm(correction.to(at::kDouble), r.t()) - ordered(input.drift)).norm().item<double>(),
            1e-4 * input.drift.norm().item<double>());
}

TEST(Gptaq, RefusesWhatItDoesNotKnow) {
  EXPECT_THAT(make_gptaq({{"shares", 1}}).status().message(), ::testing::HasSubstr("share"));
  EXPECT_THAT(make_gptaq({{"share", 1.5}}).status().message(), ::testing::HasSubstr("(0, 1]"));
  EXPECT_THAT(make_gptaq({{"damping", 0}}).status().message(), ::testing::HasSubstr("'gptaq': damping"));
}

}  // namespace
}  // namespace autoglm::quant
