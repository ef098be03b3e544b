#pragma once
/// ThreadPool: a fixed number of threads that share loops.
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace autoglm::kernels {

/// The calling thread is thread 0; `threads - 1` workers wait for it, first spinning for some microseconds (the next
/// loop of a decoder comes soon), then asleep. One thread means no workers. Not thread-safe: one caller at a time, and
/// no parallel_for within another.
class ThreadPool {
 public:
  using Body = std::function<void(int64_t begin, int64_t end, int thread)>;

  /// At least one thread. Where the system refuses to start more, threads() says how many there are.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Runs `body` over pieces of [0, tasks) and returns when all are done. Thread i of n takes [tasks * i / n, tasks *
  /// (i + 1) / n) piece by piece, and then what the others have not come to, so that of a processor that is taken away
  /// for a while one piece is late. `thread` is the one that runs; what a task gives must not depend on it. `body` must
  /// not throw.
  void parallel_for(int64_t tasks, const Body& body);

 private:
  /// What is left of a thread's tasks, on a cache line of its own.
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  void work(int thread);
  void run_shares(int thread);

  std::vector<std::thread> workers_;
  std::unique_ptr<Share[]> shares_;  ///< [threads()]
  const Body* body_ = nullptr;
  int64_t piece_ = 1;                 ///< tasks
  std::atomic<uint32_t> round_{0};    ///< a new number tells the workers to look
  std::atomic<uint32_t> running_{0};  ///< workers that have not finished this round
  std::atomic<bool> stop_{false};
};

}  // namespace autoglm::kernels
