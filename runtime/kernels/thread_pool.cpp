#include "runtime/kernels/thread_pool.h"

#include <algorithm>
#include <system_error>

namespace autoglm::kernels {
namespace {

constexpr int kSpins = 1000;  // some tens of microseconds (a pause takes up to 140 cycles)
constexpr int kPieces = 8;    // of a thread's share

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Waits until `value` is no longer `old`.
void wait_for_change(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads) : shares_(std::make_unique<Share[]>(static_cast<size_t>(std::max(threads, 1)))) {
  for (int i = 1; i < threads; ++i) {
    try {
      workers_.emplace_back([this, i] { work(i); });
    } catch (const std::system_error&) {
      break;  // the system gives no more threads
    }
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_shares(int thread) {
  const int all = threads();
  for (int i = 0; i < all; ++i) {
    Share& share = shares_[static_cast<size_t>((thread + i) % all)];
    while (share.next.load(std::memory_order_relaxed) < share.end) {  // to look at what is finished costs little
      const int64_t begin = share.next.fetch_add(piece_, std::memory_order_relaxed);
      if (begin >= share.end) break;
      (*body_)(begin, std::min(begin + piece_, share.end), thread);
    }
  }
}

void ThreadPool::work(int thread) {
  uint32_t seen = 0;
  while (true) {
    wait_for_change(round_, seen);
    ++seen;  // a round ends only when every worker has finished it, so none is missed
    if (stop_.load(std::memory_order_relaxed)) return;
    run_shares(thread);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

void ThreadPool::parallel_for(int64_t tasks, const Body& body) {
  if (tasks <= 0) return;
  if (workers_.empty() || tasks == 1) {
    body(0, tasks, 0);
    return;
  }
  body_ = &body;
  const int64_t all = threads();
  piece_ = std::max<int64_t>(1, tasks / (all * kPieces));
  for (int64_t i = 0, begin = 0; i < all; ++i) {
    Share& share = shares_[static_cast<size_t>(i)];
    share.next.store(begin, std::memory_order_relaxed);
    share.end = begin = tasks / all * (i + 1) + tasks % all * (i + 1) / all;
  }
  running_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  run_shares(0);
  for (uint32_t left = running_.load(std::memory_order_acquire); left != 0;
       left = running_.load(std::memory_order_acquire)) {
    wait_for_change(running_, left);
  }
}

}  // namespace autoglm::kernels
