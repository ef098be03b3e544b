#include "runtime/kernels/neon/neon.h"
#include "runtime/kernels/neon/simd.h"
#include "runtime/kernels/vector_ops.h"

namespace autoglm::kernels::neon {

void fill_table(Kernels& table) {
  VectorOps<Simd>::fill(table);
  table.name = "neon";
  table.linear = linear;
  table.linear_int8 = linear_int8;
  table.attention = attention;
}

}  // namespace autoglm::kernels::neon
