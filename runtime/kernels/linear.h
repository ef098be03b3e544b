#pragma once
/// Matrix products on all threads of a pool.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/kernels/kernels.h"
#include "runtime/kernels/packed_weight.h"
#include "runtime/kernels/thread_pool.h"

namespace autoglm::kernels {

/// y = x W^T + bias: y[t, r] = sum_c x[t, c] * w[r, c] + bias[r].
struct LinearCall {
  const PackedWeight* weight = nullptr;
  const float* x = nullptr;  ///< [m, cols], x_stride floats between tokens
  int64_t x_stride = 0;
  int64_t m = 0;
  const float* bias = nullptr;  ///< [rows] or nullptr
  float* y = nullptr;           ///< [m, rows], y_stride floats between tokens; overlaps no x
  int64_t y_stride = 0;
};

enum class Compute : uint8_t {
  kFloat,  ///< activations as they are, or within 2^-16 where a table splits them (Kernels::split)
  kInt8    ///< activations of quantized weights rounded to int8 for each token; float weights as with kFloat
};

/// Runs linears with one table and one pool, and owns the buffers that they need in between, which grow to the largest
/// call and stay. Not thread-safe. Results do not depend on how work is shared among threads.
class Linear {
 public:
  /// Both outlive it.
  Linear(const Kernels& kernels, ThreadPool& pool) : kernels_(kernels), pool_(pool) {}

  /// Calls that do not depend on one another share the threads (q, k and v; the experts of a layer). `input_scale` is
  /// the artifact's static scale of the activations with Compute::kInt8; 0: found for each token.
  void run(std::span<const LinearCall> calls, Compute compute, float input_scale = 0);
  void run(const LinearCall& call, Compute compute, float input_scale = 0) { run({&call, 1}, compute, input_scale); }

 private:
  /// What a table makes of the input of a call before it multiplies it: rows of bytes, one for each token, in tiles or
  /// one after the other; and where they are in the buffers. kFloat: nothing.
  struct Input {
    enum Kind : uint8_t { kFloat, kInt8, kSplit } kind = kFloat;
    bool tiles = false;
    int64_t row_bytes = 0;
    size_t rows_at = 0, tokens_at = 0, sums_at = 0;
    bool is_shared = false;  ///< with the call before, which converts it

    bool is_like(const Input& other) const {
      return kind == other.kind && tiles == other.tiles && row_bytes == other.row_bytes;
    }
  };
  Input input_of(const LinearCall& call, Compute compute) const;
  void convert(const Input& input, const LinearTask& task, int64_t token, int thread, float input_scale);

  const Kernels& kernels_;
  ThreadPool& pool_;
  std::vector<LinearTask> tasks_;
  std::vector<Input> inputs_;
  std::vector<float> spread_;           ///< inputs moved to packed columns
  std::vector<std::byte> rows_;         ///< inputs in int8 or split
  std::vector<std::byte> thread_rows_;  ///< a row for each thread, before it is put into tiles
  int64_t thread_row_bytes_ = 0;        ///< from one of these to the next: the longest of a run
  std::vector<float> x_scales_;
  std::vector<int32_t> x_sums_;
};

}  // namespace autoglm::kernels
