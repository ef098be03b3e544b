#pragma once
/// The kernels of avx512_bf16/ with the tiles of AMX (INT8, BF16) where several tokens are multiplied, as in server
/// processors since 2023. The process must have been given the tiles' state (arch_prctl(2)) before these run:
/// dispatch.cpp asks for it.
#include "runtime/kernels/kernels.h"

namespace autoglm::kernels::amx {

bool wants_int8_tiles(const WeightView& weight, int64_t m);
void linear_int8(const LinearTask& task);

SplitInput wants_split(const WeightView& weight, int64_t m);
void linear_split(const LinearTask& task);

/// Puts these functions and those of avx512_bf16/ into a table that starts as the reference.
void fill_table(Kernels& table);

}  // namespace autoglm::kernels::amx
