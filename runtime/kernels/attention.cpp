#include "runtime/kernels/attention.h"

#include <algorithm>

namespace autoglm::kernels {
namespace {

/// Query rows that a kernel takes through the keys together.
constexpr int64_t kRows = 8;

/// Rows of a unit of work: fewer where that is needed to occupy all threads, at the price of reading keys again.
int64_t rows_per_unit(std::span<const AttentionCall> calls, int threads) {
  int64_t rows = kRows;
  for (; rows > 1; rows /= 2) {
    int64_t units = 0;
    for (const AttentionCall& call : calls) {
      const int64_t kv_heads = call.kv.layout.kv_heads;
      units += kv_heads * ((call.tokens * (call.heads / kv_heads) + rows - 1) / rows);
    }
    if (units >= threads) break;
  }
  return rows;
}

}  // namespace

void attention(const Kernels& kernels, ThreadPool& pool, std::span<const AttentionCall> calls) {
  pool.parallel_for(static_cast<int64_t>(calls.size()), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const AttentionCall& call = calls[static_cast<size_t>(i)];
      kernels.store_kv({.kv = call.kv,
                        .k = call.k,
                        .v = call.v,
                        .stride = call.kv_stride,
                        .tokens = call.tokens,
                        .first_position = call.first_position});
    }
  });

  struct Unit {
    const AttentionCall* call;
    int64_t kv_head, first_row, last_row;
  };
  const int64_t rows = rows_per_unit(calls, pool.threads());
  std::vector<Unit> units;
  for (const AttentionCall& call : calls) {
    const int64_t kv_heads = call.kv.layout.kv_heads, all_rows = call.tokens * (call.heads / kv_heads);
    for (int64_t row = 0; row < all_rows; row += rows) {
      for (int64_t head = 0; head < kv_heads; ++head) {
        units.push_back({&call, head, row, std::min(row + rows, all_rows)});
      }
    }
  }
  // Later rows see more keys; threads that have had the earlier ones take some of them.
  pool.parallel_for(static_cast<int64_t>(units.size()), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const Unit& unit = units[static_cast<size_t>(i)];
      kernels.attention({.kv = unit.call->kv,
                         .q = unit.call->q,
                         .q_stride = unit.call->q_stride,
                         .out = unit.call->out,
                         .out_stride = unit.call->out_stride,
                         .heads = unit.call->heads,
                         .first_position = unit.call->first_position,
                         .scale = unit.call->scale,
                         .kv_head = unit.kv_head,
                         .first_row = unit.first_row,
                         .last_row = unit.last_row});
    }
  });
}

}  // namespace autoglm::kernels
