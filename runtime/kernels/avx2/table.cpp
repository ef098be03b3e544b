#include "runtime/kernels/avx2/avx2.h"
#include "runtime/kernels/avx2/simd.h"
#include "runtime/kernels/vector_ops.h"

namespace autoglm::kernels::avx2 {

void fill_table(Kernels& table) {
  VectorOps<Simd>::fill(table);
  table.name = "avx2";
  table.linear = linear;
  table.linear_int8 = linear_int8;
  table.attention = attention;
}

}  // namespace autoglm::kernels::avx2
