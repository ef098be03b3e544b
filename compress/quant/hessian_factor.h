#pragma once
/// The triangular factor of a damped Hessian, on which GPTQ works.
///
/// GPTQ (Frantar et al. 2022, arXiv:2210.17323) minimizes e H e^T over the error e = w - q of each row, one column
/// after the other. With H + lambda I = R R^T, R upper triangular, the loss is |e R|^2, whose j-th term holds e_0..e_j
/// only: choosing q_j so that |sum_{i<j} e_i R_ij + e_j R_jj| is least gives exactly GPTQ's updates. (Its Cholesky
/// factor of the inverse is R^-1.) So the inverse is never formed: one factorization of n^3/3 operations instead of
/// three steps of n^3, and no squaring of the condition number, which lets float32 do.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "core/base/cancel.h"
#include "core/base/status.h"

namespace autoglm::quant {

struct HessianFactor {
  at::Tensor r;                ///< [n, n] float32; R on and above the diagonal, undefined below
  std::vector<int64_t> order;  ///< column k of R belongs to input channel order[k]; empty: in their own order
  double damping = 0;          ///< lambda / mean of the diagonal, as it was needed in the end
  int64_t dead = 0;            ///< channels that were zero in every token
};

/// Factors `hessian` (float32, CPU, contiguous, symmetric) in place: the result's `r` is its memory. `damping` is
/// multiplied by ten until the matrix is positive definite. Channels that no token used get the mean of the diagonal,
/// which rounds them to nearest. `by_importance` sorts the channels by falling diagonal first.
/// kBadInput: NaN or infinity, or all channels dead.
Result<HessianFactor> factorize(at::Tensor hessian, double damping, bool by_importance, CancelToken& cancel);

/// share * C R^-T [n, n], rows and columns in the factor's order; `drift` is C [n, n] in the channels' own (gptaq.h).
at::Tensor drift_correction(const HessianFactor& factor, const at::Tensor& drift, double share);

}  // namespace autoglm::quant
