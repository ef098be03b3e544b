#pragma once
/// For the tests of this room, which may not see the methods: plain rounding under the name "rtn".
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "compress/pass/registry.h"
#include "core/format/dtype.h"

namespace autoglm::search::testing {

/// The smallest scale that clips nothing, and the nearest integers.
class Rounding : public pass::Pass {
 public:
  std::string_view name() const override { return "rtn"; }

  Status run(std::vector<pass::Target*>& stage, CancelToken&) override {
    for (pass::Target* target : stage) {
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor rows, target->read(0, target->rows));
      format::QuantizedWeight out;
      out.args = target->scheme.weights;
      out.rows = target->rows;
      out.cols = target->cols;
      out.scale_dtype = target->scale_dtype;
      const int64_t groups = out.args.groups(out.cols);
      const at::Tensor grouped = rows.view({out.rows, groups, -1});
      const double lowest = out.args.q_min(), highest = out.args.q_max();
      const at::Tensor low = grouped.amin(-1, true).clamp_max(0), high = grouped.amax(-1, true).clamp_min(0);
      const at::Tensor wanted =
          out.args.symmetric ? at::maximum(high, -low) / highest : (high - low) / (highest - lowest);
      const at::Tensor scale = (wanted.clamp_min(1e-20) * 1.01).to(at::kBFloat16).to(at::kFloat);
      const at::Tensor zero = out.args.symmetric ? at::zeros_like(scale) : (lowest - low / scale).round();
      const at::Tensor codes = (grouped / scale + zero).round().clamp(lowest, highest).to(at::kChar).contiguous();
      out.values.assign(codes.const_data_ptr<int8_t>(), codes.const_data_ptr<int8_t>() + codes.numel());
      const at::Tensor scales = scale.contiguous(), zeros = zero.to(at::kChar).contiguous();
      out.scales.assign(scales.const_data_ptr<float>(), scales.const_data_ptr<float>() + scales.numel());
      if (!out.args.symmetric) {
        out.zero_points.assign(zeros.const_data_ptr<int8_t>(), zeros.const_data_ptr<int8_t>() + zeros.numel());
      }
      target->result = std::move(out);
    }
    return ok_status();
  }

  int64_t working_bytes(int64_t rows, int64_t cols) const override { return rows * cols * 8; }
  double flops(int64_t rows, int64_t cols) const override { return static_cast<double>(rows * cols); }
};

inline pass::Registry registry() {
  pass::Registry out;
  out.add("rtn", [](const nlohmann::json&) -> Result<std::unique_ptr<pass::Pass>> {
    return std::unique_ptr<pass::Pass>(std::make_unique<Rounding>());
  });
  return out;
}

}  // namespace autoglm::search::testing
