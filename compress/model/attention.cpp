/// Causal self-attention with grouped queries and rotary positions.
#include <ATen/ATen.h>

#include <algorithm>
#include <optional>

#include "compress/model/layers.h"

namespace autoglm::model {
namespace {

constexpr int64_t kFirstCapacity = 64;

/// Rows of the rotary tables for these tokens, as [batch or 1, tokens, 1, pairs].
at::Tensor at_positions(const at::Tensor& table, const at::Tensor& positions, int64_t first, int64_t tokens) {
  if (!positions.defined()) return table.narrow(0, first, tokens).unsqueeze(1).unsqueeze(0);
  return table.index_select(0, positions.flatten()).view({positions.size(0), tokens, 1, table.size(1)});
}

/// Which keys each query attends to, [batch or 1, 1, tokens, keys] bool; nothing: all of them. Every query may attend
/// to itself, so that a row of padding is never empty.
std::optional<at::Tensor> attention_mask(const at::Tensor& key_padding, int64_t past, int64_t tokens,
                                         at::Device device) {
  const int64_t keys = past + tokens;
  if (tokens == 1) {
    if (!key_padding.defined()) return std::nullopt;
    return key_padding.view({-1, 1, 1, keys});
  }
  const at::Tensor query = at::arange(past, keys, device).unsqueeze(1), key = at::arange(keys, device).unsqueeze(0);
  const at::Tensor causal = key <= query;
  if (!key_padding.defined()) return causal.view({1, 1, tokens, keys});
  return causal.logical_and(key_padding.view({-1, 1, 1, keys}).logical_or(key == query));
}

}  // namespace

std::pair<at::Tensor, at::Tensor> LayerCache::append(const at::Tensor& new_keys, const at::Tensor& new_values) {
  const int64_t added = new_keys.size(2), needed = length + added;
  if (!keys.defined() || keys.size(2) < needed) {
    const int64_t capacity = std::max({needed, kFirstCapacity, keys.defined() ? 2 * keys.size(2) : 0});
    const auto grown = [&](const at::Tensor& old, const at::Tensor& like) {
      at::Tensor larger = at::empty({like.size(0), like.size(1), capacity, like.size(3)}, like.options());
      if (length > 0) larger.narrow(2, 0, length).copy_(old.narrow(2, 0, length));
      return larger;
    };
    keys = grown(keys, new_keys);
    values = grown(values, new_values);
  }
  keys.narrow(2, length, added).copy_(new_keys);
  values.narrow(2, length, added).copy_(new_values);
  length = needed;
  return {keys.narrow(2, 0, length), values.narrow(2, 0, length)};
}

at::Tensor attention(const format::ModelConfig& config, const Block& block, const Rotary& rotary, const at::Tensor& x,
                     const ForwardOptions& options) {
  const int64_t batch = x.size(0), tokens = x.size(1), head_dim = config.head_dim;
  const int64_t heads = config.num_attention_heads, kv_heads = config.num_key_value_heads;
  const int64_t past = options.cache != nullptr ? options.cache->length : 0;

  if (!enter(format::Stage::kQkv, block.qkv, x, options)) return {};
  at::Tensor q, k, v;
  if (block.qkv.size() == 1) {
    const at::Tensor fused = block.qkv[0](x).view({batch, tokens, heads + 2 * kv_heads, head_dim});
    q = fused.narrow(2, 0, heads);
    k = fused.narrow(2, heads, kv_heads);
    v = fused.narrow(2, heads + kv_heads, kv_heads);
  } else {
    q = block.qkv[0](x).view({batch, tokens, heads, head_dim});
    k = block.qkv[1](x).view({batch, tokens, kv_heads, head_dim});
    v = block.qkv[2](x).view({batch, tokens, kv_heads, head_dim});
  }
  if (block.q_norm.defined()) q = rms_norm(q, block.q_norm, config.rms_norm_eps);
  if (block.k_norm.defined()) k = rms_norm(k, block.k_norm, config.rms_norm_eps);
  const at::Tensor cos = at_positions(rotary.cos, options.positions, past, tokens);
  const at::Tensor sin = at_positions(rotary.sin, options.positions, past, tokens);
  rotate(q, cos, sin, config.rotary_layout);
  rotate(k, cos, sin, config.rotary_layout);

  at::Tensor keys = k.transpose(1, 2), values = v.transpose(1, 2);
  if (options.cache != nullptr) std::tie(keys, values) = options.cache->append(keys, values);
  const bool plain = past == 0 && !options.key_padding.defined();  // then the kernel's own causal mask fits
  const auto mask = plain ? std::nullopt : attention_mask(options.key_padding, past, tokens, x.device());
  const at::Tensor mixed = at::scaled_dot_product_attention(q.transpose(1, 2), keys, values, mask, /*dropout_p=*/0.0,
                                                            /*is_causal=*/plain && tokens > 1, std::nullopt,
                                                            /*enable_gqa=*/heads != kv_heads);
  const at::Tensor joined = mixed.transpose(1, 2).reshape({batch, tokens, heads * head_dim});
  if (!enter(format::Stage::kO, {&block.o, 1}, joined, options)) return {};
  return block.o(joined);
}

}  // namespace autoglm::model
