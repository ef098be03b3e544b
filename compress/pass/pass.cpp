#include "compress/pass/pass.h"

#include <algorithm>

namespace autoglm::pass {
namespace {

int64_t rows_per_piece(int64_t cols, int64_t bytes) {
  return std::max<int64_t>(1, bytes / (std::max<int64_t>(1, cols) * static_cast<int64_t>(sizeof(float))));
}

}  // namespace

Status for_each_piece(const Target& target, CancelToken& cancel,
                      const std::function<Status(int64_t first, const at::Tensor& rows)>& body, int64_t bytes) {
  const int64_t step = rows_per_piece(target.cols, bytes);
  for (int64_t first = 0; first < target.rows; first += step) {
    AUTOGLM_RETURN_IF_ERROR(cancel.check());
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor rows, target.read(first, std::min(step, target.rows - first)));
    AUTOGLM_RETURN_IF_ERROR(body(first, rows));
  }
  return ok_status();
}

int64_t piece_bytes(int64_t rows, int64_t cols, int64_t bytes) {
  return std::min(rows, rows_per_piece(cols, bytes)) * cols * static_cast<int64_t>(sizeof(float));
}

}  // namespace autoglm::pass
