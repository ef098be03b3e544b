#include "compress/quant/hessian_factor.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace autoglm::quant {
namespace {

constexpr int64_t kBlock = 256;           // columns factored at once (in float64: small and the most sensitive part)
constexpr int64_t kPanel = 1024;          // columns updated at once
constexpr double kLargestDamping = 10.0;  // diagonal dominance: nothing finite fails here

/// a[i][j] = a[order[i]][order[j]] in place, with one row of scratch per thread.
void permute_symmetric(at::Tensor& matrix, const std::vector<int64_t>& order) {
  const int64_t n = matrix.size(0);
  float* data = matrix.mutable_data_ptr<float>();
  at::parallel_for(0, n, 16, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(n));
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(row.data(), data + i * n, row.size() * sizeof(float));
      for (int64_t j = 0; j < n; ++j) data[i * n + j] = row[static_cast<size_t>(order[static_cast<size_t>(j)])];
    }
  });
  // Rows: along each cycle of the permutation, every row is copied to where it belongs.
  std::vector<bool> placed(static_cast<size_t>(n), false);
  std::vector<float> held(static_cast<size_t>(n));
  for (int64_t start = 0; start < n; ++start) {
    if (placed[static_cast<size_t>(start)]) continue;
    std::memcpy(held.data(), data + start * n, held.size() * sizeof(float));
    for (int64_t i = start;;) {
      placed[static_cast<size_t>(i)] = true;
      const int64_t from = order[static_cast<size_t>(i)];
      if (from == start) {
        std::memcpy(data + i * n, held.data(), held.size() * sizeof(float));
        break;
      }
      std::memcpy(data + i * n, data + from * n, held.size() * sizeof(float));
      i = from;
    }
  }
}

/// Subtracts panel panel^T from the leading square of `h`, on and above the diagonal only.
void downdate(at::Tensor& h, const at::Tensor& panel) {
  for (int64_t first = 0; first < panel.size(0); first += kPanel) {
    const int64_t last = std::min(first + kPanel, panel.size(0));
    const at::Tensor strip = panel.slice(0, first, last);
    if (first > 0) h.slice(0, 0, first).slice(1, first, last).addmm_(panel.slice(0, 0, first), strip.t(), 1, -1);
    h.slice(0, first, last).slice(1, first, last).sub_(at::mm(strip, strip.t()).triu_());
  }
}

/// Overwrites the upper triangle of `h` (which must hold the matrix) by R; false when it is not positive definite.
/// Runs from the last column to the first. The strict lower triangle is kept.
Result<bool> factorize_upper(at::Tensor& h, CancelToken& cancel) {
  const int64_t n = h.size(0);
  for (int64_t end = n; end > 0;) {
    AUTOGLM_RETURN_IF_ERROR(cancel.check());
    const int64_t begin = std::max<int64_t>(0, (end - 1) / kBlock * kBlock);
    // With J the reversal, J D J = L L^T gives D = (J L J)(J L J)^T and J L J is upper triangular.
    at::Tensor corner = h.slice(0, begin, end).slice(1, begin, end);
    const at::Tensor upper = corner.to(at::kDouble).triu();
    const at::Tensor full = upper + upper.triu(1).t();
    const auto [lower, info] = at::linalg_cholesky_ex(full.flip({0, 1}));
    if (info.item<int>() != 0) return false;
    const at::Tensor r = lower.flip({0, 1}).to(at::kFloat);
    if (!at::isfinite(r).all().item<bool>()) return false;
    corner.copy_(at::tril(corner, -1) + r);
    if (begin > 0) {
      at::Tensor above = h.slice(0, 0, begin).slice(1, begin, end);
      const at::Tensor solved = at::linalg_solve_triangular(r.t(), above, /*upper=*/false, /*left=*/false).contiguous();
      above.copy_(solved);
      downdate(h, solved);
    }
    end = begin;
  }
  return true;
}

}  // namespace

Result<HessianFactor> factorize(at::Tensor hessian, double damping, bool by_importance, CancelToken& cancel) {
  const int64_t n = hessian.size(0);
  HessianFactor factor;
  factor.r = std::move(hessian);
  at::Tensor diagonal = factor.r.diagonal().clone();
  if (!at::isfinite(diagonal).all().item<bool>()) return bad_input("the calibration inputs hold NaN or infinity");
  const at::Tensor alive = diagonal > 0;
  const int64_t alive_count = alive.sum().item<int64_t>();
  factor.dead = n - alive_count;
  if (alive_count == 0) return bad_input("every calibration input is zero");
  const double mean = diagonal.masked_select(alive).mean(at::kDouble).item<double>();
  diagonal.masked_fill_(alive.logical_not(), mean);
  if (by_importance) {
    const float* values = diagonal.const_data_ptr<float>();
    factor.order.resize(static_cast<size_t>(n));
    std::iota(factor.order.begin(), factor.order.end(), 0);
    std::stable_sort(factor.order.begin(), factor.order.end(),
                     [&](int64_t a, int64_t b) { return values[a] > values[b]; });
    permute_symmetric(factor.r, factor.order);
    diagonal = diagonal.index_select(0, at::tensor(factor.order, at::kLong));
  }
  for (factor.damping = damping; factor.damping <= kLargestDamping; factor.damping *= 10) {
    factor.r.diagonal().copy_(diagonal + factor.damping * mean);
    AUTOGLM_ASSIGN_OR_RETURN(const bool done, factorize_upper(factor.r, cancel));
    if (done) return factor;
    // The matrix is symmetric and its lower triangle untouched: mirror it for the next attempt.
    for (int64_t first = 0; first < n; first += kPanel) {
      const int64_t last = std::min(first + kPanel, n);
      at::Tensor rows = factor.r.slice(0, first, last);
      rows.slice(1, last, n).copy_(factor.r.slice(0, last, n).slice(1, first, last).t());
      at::Tensor corner = rows.slice(1, first, last);
      corner.copy_(at::tril(corner, -1) + at::tril(corner, -1).t());
    }
  }
  return bad_input(
      fmt::format("the Hessian of the calibration inputs cannot be factored even with {:g} times its mean "
                  "diagonal added; calibrate with more text",
                  kLargestDamping));
}

at::Tensor drift_correction(const HessianFactor& factor, const at::Tensor& drift, double share) {
  at::Tensor c = drift;
  if (!factor.order.empty()) {
    const at::Tensor order = at::tensor(factor.order, at::kLong);
    c = c.index_select(0, order).index_select(1, order);
  }
  // P R^T = C; only the triangle of R^T is read.
  return at::linalg_solve_triangular(factor.r.t(), c, /*upper=*/false, /*left=*/false).mul_(share).contiguous();
}

}  // namespace autoglm::quant
