#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/format/dtype.h"
#include "runtime/kernels/generic/generic.h"

namespace autoglm::kernels::generic {
namespace {

/// The cached elements of one kv head in one page.
class HeadPage {
 public:
  HeadPage(const KvPages& kv, int64_t page, int64_t head)
      : layout_(kv.layout), bytes_(kv.pages[page] + kv.offset), head_(head) {}

  float key(int64_t token, int64_t dim) const { return read(key_index(token, dim), 0, token); }
  float value(int64_t token, int64_t dim) const { return read(value_index(token, dim), 1, token); }
  void store_key(int64_t token, const float* k) { store(token, k, 0); }
  void store_value(int64_t token, const float* v) { store(token, v, 1); }

 private:
  int64_t key_index(int64_t token, int64_t dim) const {
    return (head_ * layout_.head_dim + dim) * layout_.page_tokens + token;
  }
  int64_t value_index(int64_t token, int64_t dim) const {
    const int64_t keys = layout_.kv_heads * layout_.head_dim * layout_.page_tokens;
    return keys + (head_ * layout_.page_tokens + token) * layout_.head_dim + dim;
  }
  std::byte* scale(int side, int64_t token) const {
    return bytes_ + layout_.scales_offset() + ((side * layout_.kv_heads + head_) * layout_.page_tokens + token) * 4;
  }

  float read(int64_t index, int side, int64_t token) const {
    const std::byte* from = bytes_ + index * layout_.element_bytes();
    float value = 0;
    uint16_t half;
    switch (layout_.type) {
      case KvType::kF32: std::memcpy(&value, from, 4); return value;
      case KvType::kF16: std::memcpy(&half, from, 2); return format::fp16_to_float(half);
      case KvType::kInt8: break;
    }
    std::memcpy(&value, scale(side, token), 4);
    return value * static_cast<float>(static_cast<int8_t>(*from));
  }

  void store(int64_t token, const float* x, int side) {
    float factor = 1;
    if (layout_.type == KvType::kInt8) {
      float largest = 0;
      for (int64_t d = 0; d < layout_.head_dim; ++d) largest = std::max(largest, std::abs(x[d]));
      factor = largest / 127.0f;
      // What is no number may not become one; an infinite factor times 0 is none.
      if (!std::all_of(x, x + layout_.head_dim, [](float v) { return std::isfinite(v); })) factor = NAN;
      std::memcpy(scale(side, token), &factor, 4);
    }
    for (int64_t d = 0; d < layout_.head_dim; ++d) {
      std::byte* to = bytes_ + (side == 0 ? key_index(token, d) : value_index(token, d)) * layout_.element_bytes();
      switch (layout_.type) {
        case KvType::kF32: std::memcpy(to, x + d, 4); break;
        case KvType::kF16: {
          const uint16_t half = format::float_to_fp16(x[d]);
          std::memcpy(to, &half, 2);
          break;
        }
        case KvType::kInt8: {
          const float q = factor > 0 ? std::nearbyint(x[d] / factor) : 0;
          *to = static_cast<std::byte>(static_cast<int8_t>(q >= -127 ? std::min(q, 127.0f) : -127.0f));
          break;
        }
      }
    }
  }

  const KvLayout& layout_;
  std::byte* bytes_;
  int64_t head_;
};

}  // namespace

void store_kv(const KvStore& store) {
  const KvLayout& layout = store.kv.layout;
  for (int64_t t = 0; t < store.tokens; ++t) {
    const int64_t position = store.first_position + t;
    for (int64_t h = 0; h < layout.kv_heads; ++h) {
      HeadPage page(store.kv, position / layout.page_tokens, h);
      page.store_key(position % layout.page_tokens, store.k + t * store.stride + h * layout.head_dim);
      page.store_value(position % layout.page_tokens, store.v + t * store.stride + h * layout.head_dim);
    }
  }
}

void attention(const AttentionTask& task) {
  const KvLayout& layout = task.kv.layout;
  const int64_t heads_per_kv = task.heads / layout.kv_heads, dims = layout.head_dim;
  for (int64_t row = task.first_row; row < task.last_row; ++row) {
    const int64_t token = row / heads_per_kv, head = task.kv_head * heads_per_kv + row % heads_per_kv;
    const float* q = task.q + token * task.q_stride + head * dims;
    float* out = task.out + token * task.out_stride + head * dims;
    std::fill(out, out + dims, 0.0f);
    // Softmax in one pass (Milakov and Gimelshein 2018, arXiv 1805.02867, algorithm 3): when a larger score comes, what
    // was summed so far shrinks.
    float largest = -std::numeric_limits<float>::infinity(), sum = 0;
    for (int64_t position = 0; position <= task.first_position + token; ++position) {
      const HeadPage page(task.kv, position / layout.page_tokens, task.kv_head);
      const int64_t slot = position % layout.page_tokens;
      float score = 0;
      for (int64_t d = 0; d < dims; ++d) score += q[d] * page.key(slot, d);
      score *= task.scale;
      if (score > largest) {
        const float shrink = std::exp(largest - score);
        for (int64_t d = 0; d < dims; ++d) out[d] *= shrink;
        sum *= shrink;
        largest = score;
      }
      const float weight = std::exp(score - largest);
      sum += weight;
      for (int64_t d = 0; d < dims; ++d) out[d] += weight * page.value(slot, d);
    }
    for (int64_t d = 0; d < dims; ++d) out[d] /= sum;
  }
}

}  // namespace autoglm::kernels::generic
