#include "runtime/kernels/dotprod/dotprod.h"
#include "runtime/kernels/neon/int8.h"

namespace autoglm::kernels::dotprod {
namespace {

struct Sdot {
  static int32x4_t add(int32x4_t sums, int8x16_t w, int8x16_t x) { return vdotq_s32(sums, w, x); }
};

}  // namespace

void linear_int8(const LinearTask& task) { run_blocked<neon::Int8<Sdot>>(task); }

}  // namespace autoglm::kernels::dotprod
