#include "runtime/kernels/amx/amx.h"
#include "runtime/kernels/avx512_bf16/avx512_bf16.h"

namespace autoglm::kernels::amx {

void fill_table(Kernels& table) {
  avx512_bf16::fill_table(table);
  table.name = "avx512_amx";
  table.wants_int8_tiles = wants_int8_tiles;
  table.linear_int8 = linear_int8;
  table.wants_split = wants_split;
  table.linear_split = linear_split;
}

}  // namespace autoglm::kernels::amx
