#pragma once
/// Kernels: the operations of a decoder for one instruction set, as a table of functions.
///
/// generic/ is the plain reference; every other folder is compiled with the flags of its instruction set and tested
/// against it. dispatch.cpp alone chooses. The functions work on raw memory of the caller, allocate nothing, run on the
/// calling thread, and give the same bytes for the same input; linear.h and attention.h split work among threads.
/// Pointers need the natural alignment of their element only.
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "runtime/kernels/weight_view.h"

namespace autoglm::kernels {

/// y[t, r] = sum_c x[t, c] * w[r, c] + bias[r] for tokens t in [0, m) and rows r in [first_row, last_row).
/// `first_row` is a multiple of kBlockRows; so is `last_row` unless it is the last of the matrix.
struct LinearTask {
  const WeightView* weight = nullptr;
  int64_t m = 0;
  int64_t first_row = 0, last_row = 0;
  const float* bias = nullptr;  ///< [rows] or nullptr
  float* y = nullptr;           ///< [m, rows] with y_stride floats between tokens
  int64_t y_stride = 0;

  const float* x = nullptr;  ///< [m, packed_cols] with x_stride floats between tokens; zero in packed padding
  int64_t x_stride = 0;

  /// For linear_int8 in place of x: x = xq * x_scales[t].
  const int8_t* xq = nullptr;       ///< [m, packed_cols], zero in packed padding; in tiles where wants_int8_tiles
  const float* x_scales = nullptr;  ///< [m]
  const int32_t* x_sums = nullptr;  ///< [m, packed_cols / 16 + 1]: the sum of the first 16 * i values of a token

  const std::byte* x_parts = nullptr;  ///< for linear_split in place of x: split rows, as wants_split asks for them
};

/// How linear_split takes the inputs of a product: not at all, rows one after the other (aligned to 64 bytes), or rows
/// in tiles.
enum class SplitInput : uint8_t { kNone, kRows, kTiles };

/// Rows of bytes, one for each token, in tiles: [padded_tokens(m) / 16][row / 64][16 tokens][64 bytes], aligned to 64
/// bytes. The rows of tokens that only fill up the last tile may have any value.
inline constexpr int64_t kTileTokens = 16, kTileRowBytes = 64;
static constexpr int64_t padded_tokens(int64_t m) { return (m + kTileTokens - 1) / kTileTokens * kTileTokens; }

/// Of a token's int8 in tiles: packed_cols, then any value.
static constexpr int64_t int8_row_bytes(const WeightView& weight) {
  return (weight.packed_cols + kTileRowBytes - 1) / kTileRowBytes * kTileRowBytes;
}

/// Of a token that is split: two parts of as many BF16, each packed_cols and then zeros. The first is nearest to x, the
/// second to what is left; together they are within 2^-16 of x, or 2^-126 where that is more.
static constexpr int64_t split_row_bytes(const WeightView& weight) {
  return (weight.packed_cols + kChunkCols - 1) / kChunkCols * kChunkCols * 4;
}

/// Storage of cached keys and values. int8 has one float scale for each token and head (value = q * scale).
enum class KvType : uint8_t { kF32, kF16, kInt8 };

/// What one layer keeps in one page of `page_tokens` tokens (a multiple of 16):
///   keys    [kv_heads][head_dim][page_tokens]   tokens side by side: scores of 16 tokens are one vector
///   values  [kv_heads][page_tokens][head_dim]
///   key scales [kv_heads][page_tokens] float, value scales likewise   (kInt8 only)
struct KvLayout {
  KvType type = KvType::kF16;
  int64_t kv_heads = 0, head_dim = 0, page_tokens = 0;

  int64_t element_bytes() const { return type == KvType::kF32 ? 4 : type == KvType::kF16 ? 2 : 1; }
  int64_t values_offset() const { return kv_heads * head_dim * page_tokens * element_bytes(); }
  int64_t scales_offset() const { return 2 * values_offset(); }
  /// Bytes of one layer in a page: a multiple of 16.
  int64_t bytes() const { return scales_offset() + (type == KvType::kInt8 ? 2 * kv_heads * page_tokens * 4 : 0); }
};

/// One sequence's pages: token i lies in page i / page_tokens, whose bytes for the layer start at pages[...] + offset.
struct KvPages {
  KvLayout layout;
  std::byte* const* pages = nullptr;
  int64_t offset = 0;
};

/// Causal attention of one sequence, grouped heads (GQA): query head h uses kv head h / (heads / kv_heads).
/// Query row i of [first_row, last_row) of kv head `kv_head` is token i / G, head kv_head * G + i % G, where
/// G = heads / kv_heads. Token t stands at position first_position + t and sees keys [0, first_position + t].
/// Softmax is computed in float: running maximum over pieces of keys.
struct AttentionTask {
  KvPages kv;
  const float* q = nullptr;  ///< [tokens, heads, head_dim], q_stride floats between tokens
  int64_t q_stride = 0;
  float* out = nullptr;  ///< [tokens, heads, head_dim], out_stride floats between tokens
  int64_t out_stride = 0;
  int64_t heads = 0;
  int64_t first_position = 0;
  float scale = 1;  ///< multiplies scores, usually head_dim^-1/2
  int64_t kv_head = 0, first_row = 0, last_row = 0;
};

/// Puts the keys and values of tokens [0, tokens) at positions first_position + t of the pages. int8 rounds to
/// max |v| / 127 for each token and head.
struct KvStore {
  KvPages kv;
  const float* k = nullptr;  ///< [tokens, kv_heads, head_dim], stride floats between tokens
  const float* v = nullptr;
  int64_t stride = 0;
  int64_t tokens = 0, first_position = 0;
};

/// Rotary embedding in place (arXiv 2104.09864): pairs (a, b) of the first 2 * pairs dimensions of each head become
/// (a cos - b sin, b cos + a sin). Pairs are neighbours (2i, 2i+1) when interleaved, else (i, i + pairs).
struct RotaryTask {
  float* x = nullptr;  ///< [tokens, heads, head_dim], stride floats between tokens
  int64_t stride = 0;
  int64_t tokens = 0, heads = 0, head_dim = 0, pairs = 0;
  const float* cos = nullptr;  ///< [tokens, pairs]
  const float* sin = nullptr;
  bool interleaved = false;
};

struct Kernels {
  const char* name = "";

  /// Float activations; quantized weights become float in registers.
  void (*linear)(const LinearTask&) = nullptr;
  /// INT8 activations, quantized weights only; sums of integer products are exact.
  void (*linear_int8)(const LinearTask&) = nullptr;
  /// xq = round(x / scale) to nearest even, clamped to [-128, 127]; `scale` 0 asks for the token's own, max |x| / 127.5
  /// (compressed-tensors' symmetric int8). Returns the scale used; a token of zeros has scale 2^-23, one with a value
  /// that is infinite or none has the scale NaN and any xq, so that its products are none either.
  float (*quantize)(const float* x, int64_t n, float scale, int8_t* xq) = nullptr;

  /// For processors that multiply tiles, else null: whether linear_int8 takes its inputs in tiles.
  bool (*wants_int8_tiles)(const WeightView& weight, int64_t m) = nullptr;
  /// For processors that multiply BF16, else all null: which products are faster by linear_split, which is `linear` on
  /// split rows. Weights, and products, below 2^-126 may count as zero; an infinite weight may give what is no number.
  SplitInput (*wants_split)(const WeightView& weight, int64_t m) = nullptr;
  /// Writes n values of x as two parts of `part_cols` BF16 each, a multiple of 16. What is infinite has no rest.
  void (*split)(const float* x, int64_t n, int64_t part_cols, std::byte* row) = nullptr;
  void (*linear_split)(const LinearTask&) = nullptr;

  void (*store_kv)(const KvStore&) = nullptr;
  void (*attention)(const AttentionTask&) = nullptr;

  /// y[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight for `rows` rows of n floats; y may be x.
  void (*rms_norm)(const float* x, int64_t x_stride, const float* weight, float eps, int64_t rows, int64_t n, float* y,
                   int64_t y_stride) = nullptr;
  void (*rotary)(const RotaryTask&) = nullptr;
  /// y = silu(gate) * up, n values each; y may be gate or up.
  void (*swiglu)(const float* gate, const float* up, int64_t n, float* y) = nullptr;
  /// y += scale * x, n values.
  void (*add_scaled)(const float* x, float scale, int64_t n, float* y) = nullptr;

  /// n values between float and 16 bits, rounded to nearest even; the 16-bit side at any alignment.
  void (*f16_to_f32)(const std::byte* x, int64_t n, float* y) = nullptr;
  void (*bf16_to_f32)(const std::byte* x, int64_t n, float* y) = nullptr;
  void (*f32_to_f16)(const float* x, int64_t n, std::byte* y) = nullptr;
  void (*f32_to_bf16)(const float* x, int64_t n, std::byte* y) = nullptr;
};

/// The tables that this processor can run, the best first; `generic` is always the last. Built once.
const std::vector<const Kernels*>& available();

/// The first of available(), or the one that the environment variable AUTOGLM_ISA names. kInvalidArgument names the
/// choices when that is unknown or this processor lacks it. Thread-safe.
Result<const Kernels*> select();
/// The same for a given name; "" asks for the first.
Result<const Kernels*> select(std::string_view name);

}  // namespace autoglm::kernels
