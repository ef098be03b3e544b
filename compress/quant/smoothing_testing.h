#pragma once
/// A fold point for the tests of smoothers.
#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "compress/pass/smoother.h"
#include "compress/quant/scale_search.h"
#include "compress/quant/testing.h"

namespace autoglm::quant::testing {

/// Consumers [out, cols] that share the inputs x [tokens, cols].
struct Folding {
  calibrate::InputStatistics statistics;
  pass::FoldTarget target;

  Folding(const std::vector<at::Tensor>& weights, const at::Tensor& x, const std::string& word, int64_t head = 0,
          int64_t copies = 1)
      : statistics(statistics_of(x, {.moments = true, .sample_tokens = x.size(0)})) {
    target.name = "norm";
    target.channels = x.size(1) / copies;
    target.head = head > 0 ? head : target.channels;
    target.copies = copies;
    target.storable = [](const at::Tensor& wanted) { return wanted; };
    for (const at::Tensor& weight : weights) {
      target.consumers.push_back(target_of(weight, word));
      target.consumers.back().input = &statistics;
    }
  }
  Folding(const Folding&) = delete;
  Folding& operator=(const Folding&) = delete;

  double error(const at::Tensor& scales) const { return rounding_error(target, scales, cancel()).value(); }
};

}  // namespace autoglm::quant::testing
