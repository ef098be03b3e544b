#include "runtime/kernels/avx512/avx512.h"
#include "runtime/kernels/avx512/simd.h"
#include "runtime/kernels/vector_ops.h"

namespace autoglm::kernels::avx512 {

void fill_table(Kernels& table) {
  VectorOps<Simd>::fill(table);
  table.name = "avx512_vnni";
  table.linear = linear;
  table.linear_int8 = linear_int8;
  table.attention = attention;
  table.rotary = rotary;
}

}  // namespace autoglm::kernels::avx512
