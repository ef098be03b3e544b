#pragma once
/// Kernels for AVX-512 (F, BW, DQ, VL) with VNNI, as in processors since 2019. Files of this folder hold intrinsics and
/// plain loops only: an inline function of the standard library, compiled with these flags, could be the copy that the
/// linker keeps for everyone.
#include "runtime/kernels/kernels.h"

namespace autoglm::kernels::avx512 {

void linear(const LinearTask& task);
void linear_int8(const LinearTask& task);
void attention(const AttentionTask& task);
void rotary(const RotaryTask& task);

/// Puts these functions and those of vector_ops.h into a table that starts as the reference, which keeps what only
/// moves single elements (store_kv).
void fill_table(Kernels& table);

}  // namespace autoglm::kernels::avx512
