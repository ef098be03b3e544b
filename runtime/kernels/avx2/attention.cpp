#include "runtime/kernels/avx2/avx2.h"
#include "runtime/kernels/avx2/simd.h"
#include "runtime/kernels/vector_attention.h"

namespace autoglm::kernels::avx2 {

void attention(const AttentionTask& task) { vector_attention<Simd>(task); }

}  // namespace autoglm::kernels::avx2
