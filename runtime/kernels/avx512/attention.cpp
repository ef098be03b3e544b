#include "runtime/kernels/avx512/avx512.h"
#include "runtime/kernels/avx512/simd.h"
#include "runtime/kernels/vector_attention.h"

namespace autoglm::kernels::avx512 {

void attention(const AttentionTask& task) { vector_attention<Simd>(task); }

}  // namespace autoglm::kernels::avx512
