#pragma once
/// The loops around a matrix product that all instruction sets share. Everything is static or a template over a type of
/// the including file's own, so that each file has its own copy, compiled with its own flags.
///
/// Two blocks (32 rows) by some columns of the weight are brought into the form that the inner loop reads, a panel in
/// the first-level cache, and are then multiplied by all tokens of a strip, a tile of a few tokens at a time. Strips of
/// rows and of tokens are small enough that both stay in the second-level cache while every pair of them meets.
#include <cstdint>

#include "runtime/kernels/kernels.h"

namespace autoglm::kernels {

constexpr int64_t kPairRows = 2 * kBlockRows;
constexpr int64_t kStripTokens = 96;
constexpr int64_t kStripBytes = 1 << 20;  // of weights: half of a usual second-level cache

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/// Calls `body` with the width of a view as a constant: body.template operator()<bits>().
template <class Body>
static inline void with_bits(int bits, Body body) {
  switch (bits) {
    case 1: body.template operator()<1>(); break;
    case 2: body.template operator()<2>(); break;
    case 3: body.template operator()<3>(); break;
    case 4: body.template operator()<4>(); break;
    case 5: body.template operator()<5>(); break;
    case 6: body.template operator()<6>(); break;
    case 7: body.template operator()<7>(); break;
    default: body.template operator()<8>(); break;
  }
}

static inline const std::byte* chunk_of(const WeightView& view, int64_t block, int64_t col) {
  return view.values + (block * (view.packed_cols / kChunkCols) + col / kChunkCols) * view.bits * kVectorBytes;
}

/// Rows of a strip: a multiple of kPairRows.
static inline int64_t strip_rows(const WeightView& view) {
  const int64_t bits = view.type == WeightType::kQuantized ? view.bits : view.type == WeightType::kF32 ? 32 : 16;
  const int64_t rows = kStripBytes * 8 / (bits * view.packed_cols) / kPairRows * kPairRows;
  return rows < kPairRows ? kPairRows : rows;
}

/// One tile of tokens times one panel. `sums` are the results of the tile's tokens so far, [tokens][32].
struct Tile {
  const LinearTask* task;
  int64_t block[2];
  int64_t first_col, last_col;
  int64_t first_token;
  float* sums;
};

/// Runs Op::tile<T> for T = tokens in [1, Op::kTokens].
template <class Op, int T>
static void run_tile(const Tile& tile, const typename Op::Panel (&panels)[2], int64_t tokens) {
  if (tokens == T) {
    Op::template tile<T>(tile, panels);
  } else if constexpr (T > 1) {
    run_tile<Op, T - 1>(tile, panels, tokens);
  }
}

/// The panel of floats of any type of weight: Op::fill_float<type> or Op::fill_bits<bits>.
template <class Op>
static void fill_floats(const WeightView& view, int64_t block, int64_t first_col, int64_t last_col,
                        typename Op::Panel& panel) {
  switch (view.type) {
    case WeightType::kF32: return Op::template fill_float<WeightType::kF32>(view, block, first_col, last_col, panel);
    case WeightType::kF16: return Op::template fill_float<WeightType::kF16>(view, block, first_col, last_col, panel);
    case WeightType::kBF16: return Op::template fill_float<WeightType::kBF16>(view, block, first_col, last_col, panel);
    case WeightType::kQuantized:
      with_bits(view.bits, [&]<int bits>() { Op::template fill_bits<bits>(view, block, first_col, last_col, panel); });
  }
}

/// Op has:  Panel, kPanelCols (a multiple of 32), kTokens,
///          static void fill(const WeightView&, int64_t block, int64_t first_col, int64_t last_col, Panel&),
///          template <int T> static void tile(const Tile&, const Panel (&)[2]), or not a template but for any number of
///          tokens up to kTokens: static void tile(const Tile&, const Panel (&)[2], int64_t tokens),
///          static float factor(const LinearTask&, int64_t token): what multiplies a token's sums at the end.
template <class Op>
static void run_blocked(const LinearTask& task) {
  const WeightView& view = *task.weight;
  const int64_t last_block = (view.rows - 1) / kBlockRows, strip = strip_rows(view);
  typename Op::Panel panels[2];
  alignas(64) float sums[kStripTokens * kPairRows];
  for (int64_t strip_row = task.first_row; strip_row < task.last_row; strip_row += strip) {
    const int64_t strip_end = smaller(strip_row + strip, task.last_row);
    for (int64_t strip_token = 0; strip_token < task.m; strip_token += kStripTokens) {
      const int64_t tokens = smaller(kStripTokens, task.m - strip_token);
      for (int64_t row = strip_row; row < strip_end; row += kPairRows) {
        Tile tile{.task = &task};
        tile.block[0] = row / kBlockRows;
        tile.block[1] = smaller(tile.block[0] + 1, last_block);  // a block alone is computed twice
        for (int64_t i = 0; i < tokens * kPairRows; ++i) sums[i] = 0;
        for (int64_t col = 0; col < view.packed_cols; col += Op::kPanelCols) {
          tile.first_col = col;
          tile.last_col = smaller(col + Op::kPanelCols, view.packed_cols);
          for (int i = 0; i < 2; ++i) Op::fill(view, tile.block[i], tile.first_col, tile.last_col, panels[i]);
          for (int64_t t = 0; t < tokens; t += Op::kTokens) {
            tile.first_token = strip_token + t;
            tile.sums = sums + t * kPairRows;
            const int64_t part = smaller(Op::kTokens, tokens - t);
            if constexpr (requires { Op::tile(tile, panels, part); }) {
              Op::tile(tile, panels, part);
            } else {
              run_tile<Op, Op::kTokens>(tile, panels, part);
            }
          }
        }
        const int64_t rows = smaller(kPairRows, strip_end - row);
        for (int64_t t = 0; t < tokens; ++t) {
          float* y = task.y + (strip_token + t) * task.y_stride + row;
          const float factor = Op::factor(task, strip_token + t);
          for (int64_t i = 0; i < rows; ++i) {
            y[i] = sums[t * kPairRows + i] * factor + (task.bias == nullptr ? 0 : task.bias[row + i]);
          }
        }
      }
    }
  }
}

}  // namespace autoglm::kernels
