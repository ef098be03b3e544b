#include "runtime/kernels/neon/int8.h"
#include "runtime/kernels/neon/neon.h"

namespace autoglm::kernels::neon {
namespace {

/// Without an instruction for it: products in 16 bits, neighbours added up in 32.
struct Widened {
  static int32x4_t add(int32x4_t sums, int8x16_t w, int8x16_t x) {
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
    const int32x4_t high = vpaddlq_s16(vmull_s8(vget_high_s8(w), vget_high_s8(x)));
    return vaddq_s32(sums, vpaddq_s32(low, high));
  }
};

}  // namespace

void linear_int8(const LinearTask& task) { run_blocked<Int8<Widened>>(task); }

}  // namespace autoglm::kernels::neon
