#include "runtime/kernels/neon/neon.h"
#include "runtime/kernels/neon/simd.h"
#include "runtime/kernels/vector_attention.h"

namespace autoglm::kernels::neon {

void attention(const AttentionTask& task) { vector_attention<Simd>(task); }

}  // namespace autoglm::kernels::neon
