#include "compress/quant/gptaq.h"

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "compress/pass/registry.h"
#include "compress/quant/gptq.h"

namespace autoglm::quant {

at::Tensor drift_correction(const HessianFactor& factor, const at::Tensor& drift, double share) {
  at::Tensor c = drift;
  if (!factor.order.empty()) {
    const at::Tensor order = at::tensor(factor.order, at::kLong);
    c = c.index_select(0, order).index_select(1, order);
  }
  // P R^T = C; only the triangle of R^T is read.
  return at::linalg_solve_triangular(factor.r.t(), c, /*upper=*/false, /*left=*/false).mul_(share).contiguous();
}

Result<std::unique_ptr<pass::Pass>> make_gptaq(const nlohmann::json& options) {
  AUTOGLM_ASSIGN_OR_RETURN(GptqOptions read, read_gptq_options("gptaq", options, {"share"}));
  read.drift = 0.5;
  AUTOGLM_RETURN_IF_ERROR(pass::read_option("gptaq", options, "share", read.drift));
  if (!(read.drift > 0 && read.drift <= 1)) return invalid_argument("method 'gptaq': share must be in (0, 1]");
  return make_gptq_pass("gptaq", read);
}

}  // namespace autoglm::quant
