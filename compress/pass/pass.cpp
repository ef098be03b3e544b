#include "compress/pass/pass.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "compress/tensor/bridge.h"
#include "core/base/parallel.h"

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

Status for_each_piece_at_once(const Target& target, CancelToken& cancel,
                              const std::function<Status(int64_t first, const at::Tensor& rows)>& body, int64_t bytes) {
  const int64_t step = rows_per_piece(target.cols, bytes), pieces = (target.rows + step - 1) / step;
  const auto work_on = [&](int64_t piece) -> Status {
    return tensor::guarded([&]() -> Status {
      AUTOGLM_RETURN_IF_ERROR(cancel.check());
      const int64_t first = piece * step;
      AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor rows, target.read(first, std::min(step, target.rows - first)));
      return body(first, rows);
    });
  };
  std::atomic<int64_t> next = 0;
  FirstFailure<Status> failure;
  const auto work = [&] {
    for (int64_t piece = next++; piece < pieces; piece = next++) {
      Status done = work_on(piece);
      if (done.ok()) continue;
      next = pieces;
      failure.add(piece, std::move(done));
    }
  };
  // Threads of their own: those of OpenMP spin while they wait, and another writes meanwhile.
  std::vector<std::jthread> threads;
  try {
    for (int64_t i = 0; i < std::min<int64_t>(at::get_num_threads(), pieces); ++i) threads.emplace_back(work);
  } catch (const std::system_error&) {  // the system has no more: those that there are do it
    if (threads.empty()) work();
  }
  threads.clear();  // waits for them
  return failure.get();
}

int64_t piece_bytes(int64_t rows, int64_t cols, int64_t bytes) {
  return std::min(rows, rows_per_piece(cols, bytes)) * cols * static_cast<int64_t>(sizeof(float));
}

}  // namespace autoglm::pass
