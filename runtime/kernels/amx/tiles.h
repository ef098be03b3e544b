#pragma once
/// What the products on tiles share. Eight tiles of up to 16 rows of 64 bytes: 0 to 3 are sums of 16 tokens by 16 rows
/// of the weight, 4 and 5 hold a step of columns of 16 tokens, 6 and 7 as many of a block of rows, as the instructions
/// take their second factor: vectors of one 32-bit lane for each row, a lane being 4 columns of bytes or 2 of BF16.
#include <immintrin.h>

#include "runtime/kernels/blocked.h"

namespace autoglm::kernels::amx {
namespace {

/// Fewer tokens are multiplied as quickly without tiles.
inline constexpr int64_t kLeastTokens = 4;

/// What ldtilecfg reads (Intel SDM, vol. 1, 18.3). `step_bytes`: those of a token that are multiplied at once.
template <int step_bytes>
struct alignas(64) Config {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, step_bytes, step_bytes, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, step_bytes / 4, step_bytes / 4};
};

/// Everything stored at `at` is in memory: GCC's intrinsics do not tell the compiler that tiles are loaded from there.
inline void finish_stores(const void* at) { __asm__ volatile("" : : "r"(at) : "memory"); }

/// Sums of up to two tiles of tokens, [block][token][row].
template <class T>
struct alignas(64) Sums {
  T at[2][2 * kTileTokens][kBlockRows];
};

template <int tiles>
inline void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (tiles == 2) {
    _tile_zero(2);
    _tile_zero(3);
  }
}

template <int tiles, class T>
inline void store_sums(Sums<T>& sums) {
  _tile_stored(0, sums.at[0], kVectorBytes);
  _tile_stored(1, sums.at[1], kVectorBytes);
  if constexpr (tiles == 2) {
    _tile_stored(2, sums.at[0][kTileTokens], kVectorBytes);
    _tile_stored(3, sums.at[1][kTileTokens], kVectorBytes);
  }
}

/// run_blocked with tiles. Op::panel<tiles>(tile, panels, tokens) multiplies one panel by 16 * tiles tokens, of which
/// the first `tokens` count.
template <class Op>
struct OnTiles : Op {
  static constexpr int kTokens = 2 * kTileTokens;

  static void tile(const Tile& tile, const typename Op::Panel (&panels)[2], int64_t tokens) {
    finish_stores(panels);
    if (tokens <= kTileTokens) return Op::template panel<1>(tile, panels, tokens);
    Op::template panel<2>(tile, panels, tokens);
  }
};

template <class Op, int step_bytes>
inline void run_on_tiles(const LinearTask& task) {
  const Config<step_bytes> config;
  finish_stores(&config);
  _tile_loadconfig(&config);
  run_blocked<OnTiles<Op>>(task);
  _tile_release();
}

}  // namespace
}  // namespace autoglm::kernels::amx
