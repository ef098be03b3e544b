#pragma once
/// The kernels of avx512/ with the BF16 dot products that processors since 2020 have. BF16 weights are multiplied as
/// they come from memory: of one token that takes fewer instructions for each line, so that more lines are on their
/// way; of several it saves making panels of them. Inputs are two BF16 parts, so that two products, each of half as
/// many instructions, take the place of one.
#include "runtime/kernels/kernels.h"

namespace autoglm::kernels::avx512_bf16 {

SplitInput wants_split(const WeightView& weight, int64_t m);
void split(const float* x, int64_t n, int64_t part_cols, std::byte* row);
void linear_split(const LinearTask& task);

/// Puts these functions and those of avx512/ into a table that starts as the reference.
void fill_table(Kernels& table);

}  // namespace autoglm::kernels::avx512_bf16
