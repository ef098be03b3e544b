#pragma once
/// Attention of several sequences on all threads of a pool.
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/kernels/kernels.h"
#include "runtime/kernels/thread_pool.h"

namespace autoglm::kernels {

/// New tokens of one sequence: their keys and values (after rotary) go into the cache, then each attends to all before
/// it and to itself.
struct AttentionCall {
  KvPages kv;                ///< pages for first_position + tokens tokens
  const float* q = nullptr;  ///< [tokens, heads, head_dim]
  const float* k = nullptr;  ///< [tokens, kv_heads, head_dim]
  const float* v = nullptr;
  int64_t q_stride = 0, kv_stride = 0;  ///< floats between tokens
  float* out = nullptr;                 ///< [tokens, heads, head_dim]
  int64_t out_stride = 0;
  int64_t heads = 0, tokens = 0, first_position = 0;
  float scale = 1;
};

/// All sequences at once; each page that a call writes is written by that call alone. Results do not depend on how work
/// is split.
void attention(const Kernels& kernels, ThreadPool& pool, std::span<const AttentionCall> calls);

}  // namespace autoglm::kernels
