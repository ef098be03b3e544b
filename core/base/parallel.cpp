#include "core/base/parallel.h"

#include <algorithm>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

namespace autoglm {

void parallel_for(int64_t count, const std::function<void(int64_t begin, int64_t end)>& work) {
  const int64_t threads = std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, std::max<int64_t>(count, 1));
  FirstFailure<std::exception_ptr> thrown;
  const auto run = [&](int64_t begin, int64_t end) {
    try {
      work(begin, end);
    } catch (...) {
      thrown.add(begin, std::current_exception());
    }
  };
  {
    std::vector<std::jthread> others;
    int64_t begin = 0;
    for (int64_t i = 1; i < threads; ++i) {
      const int64_t end = count * i / threads;
      try {
        others.emplace_back(run, begin, end);
      } catch (const std::exception&) {  // the system has no more threads, or memory: the caller does the rest
        break;
      }
      begin = end;
    }
    run(begin, count);
  }
  if (thrown.get()) std::rethrow_exception(thrown.get());
}

Status try_parallel_for(int64_t count, const std::function<Status(int64_t begin, int64_t end)>& work) {
  FirstFailure<Status> failed;
  parallel_for(count, [&](int64_t begin, int64_t end) {
    if (Status done = work(begin, end); !done.ok()) failed.add(begin, std::move(done));
  });
  return failed.get();
}

}  // namespace autoglm
