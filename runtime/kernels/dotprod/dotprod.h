#pragma once
/// The kernels of neon/ with sdot for INT8, as in 64-bit ARM processors since 2018 (ARMv8.2 with dotprod).
#include "runtime/kernels/kernels.h"

namespace autoglm::kernels::dotprod {

void linear_int8(const LinearTask& task);

/// Puts this function and those of neon/ into a table that starts as the reference.
void fill_table(Kernels& table);

}  // namespace autoglm::kernels::dotprod
