#include "compress/pass/bias_correction.h"

#include <ATen/ATen.h>

#include "compress/pass/artifact.h"

namespace autoglm::pass {

Result<at::Tensor> mean_shift(const Target& target, const at::Tensor& mean, CancelToken& cancel) {
  const at::Tensor input = mean.to(at::kCPU, at::kFloat);
  at::Tensor shift = at::empty({target.rows});
  AUTOGLM_RETURN_IF_ERROR(for_each_piece(
      target, cancel,
      [&](int64_t first, const at::Tensor& rows) {
        const at::Tensor lost = rows - result_rows(target, first, rows.size(0), at::kFloat);
        shift.narrow(0, first, rows.size(0)).copy_(at::mv(lost, input));
        return ok_status();
      },
      8 << 20));
  return shift;
}

}  // namespace autoglm::pass
