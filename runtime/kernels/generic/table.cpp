#include "runtime/kernels/generic/generic.h"

namespace autoglm::kernels::generic {

Kernels table() {
  return {.name = "generic",
          .linear = linear,
          .linear_int8 = linear_int8,
          .quantize = quantize,
          .store_kv = store_kv,
          .attention = attention,
          .rms_norm = rms_norm,
          .rotary = rotary,
          .swiglu = swiglu,
          .add_scaled = add_scaled,
          .f16_to_f32 = f16_to_f32,
          .bf16_to_f32 = bf16_to_f32,
          .f32_to_f16 = f32_to_f16,
          .f32_to_bf16 = f32_to_bf16};
}

}  // namespace autoglm::kernels::generic
