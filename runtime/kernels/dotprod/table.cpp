#include "runtime/kernels/dotprod/dotprod.h"
#include "runtime/kernels/neon/neon.h"

namespace autoglm::kernels::dotprod {

void fill_table(Kernels& table) {
  neon::fill_table(table);
  table.name = "neon_dotprod";
  table.linear_int8 = linear_int8;
}

}  // namespace autoglm::kernels::dotprod
