#pragma once
/// The reference: every operation in plain C++, one family per file. Correct on any processor, written to be read.
#include "runtime/kernels/kernels.h"

namespace autoglm::kernels::generic {

void linear(const LinearTask& task);
void linear_int8(const LinearTask& task);
float quantize(const float* x, int64_t n, float scale, int8_t* xq);
void store_kv(const KvStore& store);
void attention(const AttentionTask& task);
void rms_norm(const float* x, int64_t x_stride, const float* weight, float eps, int64_t rows, int64_t n, float* y,
              int64_t y_stride);
void rotary(const RotaryTask& task);
void swiglu(const float* gate, const float* up, int64_t n, float* y);
void add_scaled(const float* x, float scale, int64_t n, float* y);
void f16_to_f32(const std::byte* x, int64_t n, float* y);
void bf16_to_f32(const std::byte* x, int64_t n, float* y);
void f32_to_f16(const float* x, int64_t n, std::byte* y);
void f32_to_bf16(const float* x, int64_t n, std::byte* y);

/// The table of all of them; the tables of other instruction sets start from it.
Kernels table();

}  // namespace autoglm::kernels::generic
