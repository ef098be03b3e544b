#include "compress/quant/rtn.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>

#include "compress/pass/registry.h"
#include "compress/quant/cast.h"
#include "compress/quant/grid.h"

namespace autoglm::quant {
namespace {

constexpr int64_t kCacheBytes = 1 << 20;  // of a piece that stays near its processor from reading to rounding

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

  int64_t working_bytes(int64_t rows, int64_t cols) const override {
    const int64_t piece = pass::piece_bytes(rows, cols, kCacheBytes), whole = rows * cols * int64_t{sizeof(float)};
    // Casts and weights with one grid are gone through in larger pieces.
    return std::max(2 * std::min(at::get_num_threads() * piece, whole), pass::piece_bytes(rows, cols));
  }
  double flops(int64_t rows, int64_t cols) const override {
    return 120.0 * static_cast<double>(rows) * static_cast<double>(cols);  // 17 candidates of 7 operations
  }
};

}  // namespace

Status round_to_nearest(pass::Target& target, CancelToken& cancel) {
  format::QuantizedWeight out = make_result(target);
  const bool one_grid = out.args.strategy == format::Strategy::kTensor;
  if (one_grid) AUTOGLM_RETURN_IF_ERROR(fit_tensor(target, {}, cancel, out));
  std::mutex noting;
  std::map<int64_t, tensor::RoundingError> errors;  // by the first row, to be added up in one order
  const auto work = [&](int64_t first, const at::Tensor& rows) -> Status {
    tensor::RoundingError error;
    for (int64_t row = first; row < first + rows.size(0); ++row) {
      const float* values = rows.const_data_ptr<float>() + (row - first) * target.cols;
      if (!one_grid) AUTOGLM_RETURN_IF_ERROR(fit_row(values, nullptr, row, target.scheme, out));
      quantize_row(values, row, target.scheme, out);
      error += tensor::rounding_error_of_row(values, out, row);
    }
    const std::lock_guard lock(noting);
    errors[first] = error;
    return ok_status();
  };
  AUTOGLM_RETURN_IF_ERROR(pass::for_each_piece_at_once(target, cancel, work, kCacheBytes));
  target.result = std::move(out);
  target.error.emplace();
  for (const auto& [first, error] : errors) *target.error += error;
  return ok_status();
}

Result<std::unique_ptr<pass::Pass>> make_rtn(const nlohmann::json& options) {
  AUTOGLM_RETURN_IF_ERROR(pass::check_options("rtn", options, {}));
  return std::unique_ptr<pass::Pass>(std::make_unique<Rtn>());
}

}  // namespace autoglm::quant
