#include "compress/quant/rtn.h"

#include <nlohmann/json.hpp>

#include "compress/pass/registry.h"
#include "compress/quant/cast.h"
#include "compress/quant/grid.h"

namespace autoglm::quant {
namespace {

constexpr int64_t kCacheBytes = 2 << 20;  // of a piece that stays near the processor from reading to rounding

class Rtn : public pass::Pass {
 public:
  std::string_view name() const override { return "rtn"; }

  Status run(std::vector<pass::Target*>& stage, CancelToken& cancel) override {
    for (pass::Target* target : stage) {
      const Status status = target->scheme.cast ? cast(*target, cancel) : round_to_nearest(*target, cancel);
      if (!status.ok()) return status.code() == StatusCode::kCancelled ? status : status.with_context(target->name);
    }
    return ok_status();
  }

  int64_t working_bytes(int64_t rows, int64_t cols) const override { return 2 * pass::piece_bytes(rows, cols); }
  double flops(int64_t rows, int64_t cols) const override {
    return 120.0 * static_cast<double>(rows) * static_cast<double>(cols);  // 17 candidates of 7 operations
  }
};

}  // namespace

Status round_to_nearest(pass::Target& target, CancelToken& cancel) {
  format::QuantizedWeight out = make_result(target);
  const bool one_grid = out.args.strategy == format::Strategy::kTensor;
  if (one_grid) AUTOGLM_RETURN_IF_ERROR(fit_tensor(target, {}, cancel, out));
  tensor::RoundingError error;
  const auto work = [&](int64_t first, const at::Tensor& rows) -> Status {
    if (!one_grid) AUTOGLM_RETURN_IF_ERROR(fit_rows(rows, {}, first, target.scheme, out));
    quantize_rows(rows, first, target.scheme, out);
    error += tensor::rounding_error({rows.const_data_ptr<float>(), static_cast<size_t>(rows.numel())}, out, first);
    return ok_status();
  };
  AUTOGLM_RETURN_IF_ERROR(pass::for_each_piece(target, cancel, work, kCacheBytes));
  target.result = std::move(out);
  target.error = error;
  return ok_status();
}

Result<std::unique_ptr<pass::Pass>> make_rtn(const nlohmann::json& options) {
  AUTOGLM_RETURN_IF_ERROR(pass::check_options("rtn", options, {}));
  return std::unique_ptr<pass::Pass>(std::make_unique<Rtn>());
}

}  // namespace autoglm::quant
