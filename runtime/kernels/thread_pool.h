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

  /// Runs `body` on every thread whose share of [0, tasks) is not empty and returns when all are done. Thread i of n
  /// takes [tasks * i / n, tasks * (i + 1) / n): the same split for the same count. `body` must not throw.
  void parallel_for(int64_t tasks, const Body& body);

 private:
  void work(int thread);
  void run_share(int thread);

  std::vector<std::thread> workers_;
  const Body* body_ = nullptr;
  int64_t tasks_ = 0;
  int shares_ = 0;
  std::atomic<uint32_t> round_{0};    ///< a new number tells the workers to look
  std::atomic<uint32_t> running_{0};  ///< workers that have not finished this round
  std::atomic<bool> stop_{false};
};

}  // namespace autoglm::kernels
