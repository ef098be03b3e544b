#include "core/base/parallel.h"

#include <algorithm>
#include <exception>
#include <limits>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace autoglm {
namespace {

/// An exception that leaves a thread ends the process.
Status guarded(const std::function<Status(int64_t begin, int64_t end)>& work, int64_t begin, int64_t end) {
  try {
    return work(begin, end);
  } catch (const std::bad_alloc&) {
    return resource_exhausted("out of memory");
  } catch (const std::exception& e) {
    return internal_error(e.what());
  }
}

}  // namespace

void parallel_for(int64_t count, const std::function<void(int64_t begin, int64_t end)>& work) {
  const int64_t threads = std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, std::max<int64_t>(count, 1));
  std::vector<std::jthread> others;
  int64_t begin = 0;
  for (int64_t i = 1; i < threads; ++i) {
    const int64_t end = count * i / threads;
    try {
      others.emplace_back(work, begin, end);
    } catch (const std::system_error&) {  // the system has no more threads: the caller does the rest
      break;
    }
    begin = end;
  }
  work(begin, count);
}

Status try_parallel_for(int64_t count, const std::function<Status(int64_t begin, int64_t end)>& work) {
  std::mutex merging;
  Status first_failure = ok_status();
  int64_t failed_at = std::numeric_limits<int64_t>::max();
  parallel_for(count, [&](int64_t begin, int64_t end) {
    Status done = guarded(work, begin, end);
    const std::lock_guard lock(merging);
    if (!done.ok() && begin < failed_at) failed_at = begin, first_failure = std::move(done);
  });
  return first_failure;
}

}  // namespace autoglm
