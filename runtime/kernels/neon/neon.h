#pragma once
/// Kernels for the vectors that every 64-bit ARM processor has. Files of this folder hold intrinsics and plain loops
/// only (avx2/avx2.h says why).
#include "runtime/kernels/kernels.h"

namespace autoglm::kernels::neon {

void linear(const LinearTask& task);
void linear_int8(const LinearTask& task);
void attention(const AttentionTask& task);

/// Puts these functions and those of vector_ops.h into a table that starts as the reference, which keeps what only
/// moves single elements (store_kv, rotary).
void fill_table(Kernels& table);

}  // namespace autoglm::kernels::neon
