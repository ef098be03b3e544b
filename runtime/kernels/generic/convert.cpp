#include "core/format/dtype.h"
#include "runtime/kernels/generic/generic.h"

namespace autoglm::kernels::generic {
namespace {

void decode(format::DType dtype, const std::byte* x, int64_t n, float* y) {
  const auto count = static_cast<size_t>(n);
  format::to_float(dtype, {x, count * 2}, {y, count});
}

void encode(format::DType dtype, const float* x, int64_t n, std::byte* y) {
  const auto count = static_cast<size_t>(n);
  format::from_float(dtype, {x, count}, {y, count * 2});
}

}  // namespace

void f16_to_f32(const std::byte* x, int64_t n, float* y) { decode(format::DType::kF16, x, n, y); }
void bf16_to_f32(const std::byte* x, int64_t n, float* y) { decode(format::DType::kBF16, x, n, y); }
void f32_to_f16(const float* x, int64_t n, std::byte* y) { encode(format::DType::kF16, x, n, y); }
void f32_to_bf16(const float* x, int64_t n, std::byte* y) { encode(format::DType::kBF16, x, n, y); }

}  // namespace autoglm::kernels::generic
