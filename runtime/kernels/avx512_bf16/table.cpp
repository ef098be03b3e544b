#include "runtime/kernels/avx512/avx512.h"
#include "runtime/kernels/avx512_bf16/avx512_bf16.h"

namespace autoglm::kernels::avx512_bf16 {

void fill_table(Kernels& table) {
  avx512::fill_table(table);
  table.name = "avx512_bf16";
  table.wants_split = wants_split;
  table.split = split;
  table.linear_split = linear_split;
}

}  // namespace autoglm::kernels::avx512_bf16
