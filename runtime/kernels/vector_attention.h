#pragma once
/// Attention over the paged cache for any vector type S (vector_ops.h says what it has).
#include <cstddef>
#include <cstdint>

#include "runtime/kernels/kernels.h"
#include "runtime/kernels/vector_ops.h"

namespace autoglm::kernels {

/// Keys that go through softmax at a time.
constexpr int64_t kPieceTokens = 64;

/// R query rows that go through the keys together.
template <class S, KvType type, int R>
class Rows {
 public:
  using Vec = typename S::Vec;
  static constexpr int64_t kLanes = S::kLanes;  // at most 16, so that it divides page_tokens
  static constexpr int64_t kSize = type == KvType::kF32 ? 4 : type == KvType::kF16 ? 2 : 1;

  /// Rows [first, first + count), count <= R; what is missing repeats the first and is not written.
  Rows(const AttentionTask& task, int64_t first, int count) : task_(task), count_(count) {
    const int64_t group = task.heads / task.kv.layout.kv_heads, dims = task.kv.layout.head_dim;
    for (int r = 0; r < R; ++r) {
      const int64_t row = first + (r < count ? r : 0), token = row / group, head = task.kv_head * group + row % group;
      q_[r] = task.q + token * task.q_stride + head * dims;
      out_[r] = task.out + token * task.out_stride + head * dims;
      last_[r] = task.first_position + token;
      largest_[r] = -__builtin_inff();
      sum_[r] = 0;
    }
    end_ = last_[count - 1] + 1;
  }

  void run() {
    const KvLayout& layout = task_.kv.layout;
    const int64_t dims = layout.head_dim;
    for (int r = 0; r < count_; ++r) {
      for (int64_t d = 0; d < dims; ++d) out_[r][d] = 0;
    }
    for (int64_t page = 0; page * layout.page_tokens < end_; ++page) {
      for (int64_t slot = 0; slot < layout.page_tokens; slot += kPieceTokens) {
        const int64_t position = page * layout.page_tokens + slot;
        if (position >= end_) break;
        int64_t tokens = layout.page_tokens - slot;
        if (tokens > kPieceTokens) tokens = kPieceTokens;
        add_piece(task_.kv.pages[page] + task_.kv.offset, slot, position, tokens);
      }
    }
    for (int r = 0; r < count_; ++r) {
      const Vec factor = S::set(1 / sum_[r]);
      for (int64_t d = 0; d < dims; d += kLanes) {
        S::store(out_[r] + d, S::mul(S::load(out_[r] + d, dims - d), factor), dims - d);
      }
    }
  }

 private:
  /// `count` stored elements as floats, without the scale of int8.
  static Vec load(const std::byte* at, int64_t count) {
    if constexpr (type == KvType::kF32) return S::load(reinterpret_cast<const float*>(at), count);
    if constexpr (type == KvType::kF16) return S::load_f16(at, count);
    return S::load_i8(reinterpret_cast<const int8_t*>(at), count);
  }

  /// Keys and values of `tokens` slots from `slot` of a page, the first at `position`.
  void add_piece(const std::byte* page, int64_t slot, int64_t position, int64_t tokens) {
    alignas(64) float weights[R][kPieceTokens];
    float shrink[R];
    score(page, slot, position, tokens, weights);
    for (int r = 0; r < R; ++r) shrink[r] = soften(page, slot, tokens, r, weights[r]);
    add_values(page, slot, end_ - position < tokens ? end_ - position : tokens, weights, shrink);
  }

  /// weights[r][t] = scale * q_r . k_t, -infinity for what row r must not see.
  void score(const std::byte* page, int64_t slot, int64_t position, int64_t tokens, float (&weights)[R][kPieceTokens]) {
    const KvLayout& layout = task_.kv.layout;
    const int64_t dims = layout.head_dim, stride = layout.page_tokens * kSize;
    const std::byte* keys = page + task_.kv_head * dims * stride + slot * kSize;
    for (int64_t t = 0; t < tokens; t += kLanes) {
      Vec sums[R];
      for (int r = 0; r < R; ++r) sums[r] = S::zero();
      for (int64_t d = 0; d < dims; ++d) {
        const Vec k = load(keys + d * stride + t * kSize, kLanes);
        for (int r = 0; r < R; ++r) sums[r] = S::fma(k, S::set(q_[r][d]), sums[r]);
      }
      Vec factor = S::set(task_.scale);
      if constexpr (type == KvType::kInt8) factor = S::mul(factor, load_scale(page, 0, slot + t));
      for (int r = 0; r < R; ++r) {
        const int64_t seen = last_[r] - position - t + 1;
        S::store(weights[r] + t, S::first(seen, S::mul(sums[r], factor), S::set(-__builtin_inff())));
      }
    }
  }

  /// Scores become weights relative to the largest score so far; returns what shrinks everything before.
  float soften(const std::byte* page, int64_t slot, int64_t tokens, int r, float* weights) {
    Vec most = S::set(largest_[r]);
    for (int64_t t = 0; t < tokens; t += kLanes) most = S::max(most, S::load(weights + t));
    const float largest = S::largest(most);
    most = S::set(largest);
    Vec sum = S::zero();
    for (int64_t t = 0; t < tokens; t += kLanes) {
      Vec weight = exp<S>(S::sub(S::load(weights + t), most));
      sum = S::add(sum, weight);
      if constexpr (type == KvType::kInt8) weight = S::mul(weight, load_scale(page, 1, slot + t));
      S::store(weights + t, weight);
    }
    alignas(64) float shrinks[kLanes];
    S::store(shrinks, exp<S>(S::sub(S::set(largest_[r]), most)));
    const float shrink = shrinks[0];
    largest_[r] = largest;
    sum_[r] = sum_[r] * shrink + S::sum(sum);
    return shrink;
  }

  /// out_r = out_r * shrink_r + sum_t weights[r][t] * v_t.
  void add_values(const std::byte* page, int64_t slot, int64_t tokens, const float (&weights)[R][kPieceTokens],
                  const float (&shrink)[R]) {
    const KvLayout& layout = task_.kv.layout;
    const int64_t dims = layout.head_dim;
    const std::byte* values = page + layout.kv_heads * dims * layout.page_tokens * kSize +
                              (task_.kv_head * layout.page_tokens + slot) * dims * kSize;
    for (int64_t d = 0; d < dims; d += kLanes) {
      const int64_t count = dims - d;
      Vec sums[R];
      for (int r = 0; r < R; ++r) sums[r] = S::mul(S::load(out_[r] + d, count), S::set(shrink[r]));
      for (int64_t t = 0; t < tokens; ++t) {
        const Vec v = load(values + (t * dims + d) * kSize, count);
        for (int r = 0; r < R; ++r) sums[r] = S::fma(v, S::set(weights[r][t]), sums[r]);
      }
      for (int r = 0; r < count_; ++r) S::store(out_[r] + d, sums[r], count);
    }
  }

  /// The scales of slots from `slot` on: of keys (side 0) or values (side 1).
  Vec load_scale(const std::byte* page, int side, int64_t slot) const {
    const KvLayout& layout = task_.kv.layout;
    const int64_t at = (side * layout.kv_heads + task_.kv_head) * layout.page_tokens + slot;
    const std::byte* scales = page + 2 * layout.kv_heads * layout.head_dim * layout.page_tokens * kSize;
    return S::load(reinterpret_cast<const float*>(scales) + at);
  }

  const AttentionTask& task_;
  int count_;
  const float* q_[R];
  float* out_[R];
  int64_t last_[R];  ///< the last position that a row sees
  int64_t end_ = 0;  ///< after the last position that any row sees
  float largest_[R], sum_[R];
};

template <class S, KvType type>
static void run_rows(const AttentionTask& task) {
  for (int64_t row = task.first_row; row < task.last_row; row += 8) {
    const int count = static_cast<int>(task.last_row - row < 8 ? task.last_row - row : 8);
    if (count > 4) {
      Rows<S, type, 8>(task, row, count).run();
    } else if (count > 2) {
      Rows<S, type, 4>(task, row, count).run();
    } else if (count == 2) {
      Rows<S, type, 2>(task, row, count).run();
    } else {
      Rows<S, type, 1>(task, row, count).run();
    }
  }
}

template <class S>
static void vector_attention(const AttentionTask& task) {
  switch (task.kv.layout.type) {
    case KvType::kF32: return run_rows<S, KvType::kF32>(task);
    case KvType::kF16: return run_rows<S, KvType::kF16>(task);
    case KvType::kInt8: return run_rows<S, KvType::kInt8>(task);
  }
}

}  // namespace autoglm::kernels
