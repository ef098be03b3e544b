#include "runtime/kernels/avx512/avx512.h"
#include "runtime/kernels/avx512/simd.h"

namespace autoglm::kernels::avx512 {

void rotary(const RotaryTask& task) {
  const __m512i evens = _mm512_setr_epi32(0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14);
  for (int64_t t = 0; t < task.tokens; ++t) {
    const float* cos = task.cos + t * task.pairs;
    const float* sin = task.sin + t * task.pairs;
    for (int64_t h = 0; h < task.heads; ++h) {
      float* head = task.x + t * task.stride + h * task.head_dim;
      if (task.interleaved) {
        // Eight pairs in a vector: each lane times its pair's cos, plus its neighbour times sin, subtracted in even
        // ones.
        const __m512i half = _mm512_srli_epi32(evens, 1);
        for (int64_t i = 0; i < task.pairs; i += 8) {
          const __mmask16 mask = lanes(2 * (task.pairs - i)), some = lanes(task.pairs - i) & 0xFF;
          const __m512 v = _mm512_maskz_loadu_ps(mask, head + 2 * i);
          const __m512 c = _mm512_permutexvar_ps(half, _mm512_maskz_loadu_ps(some, cos + i));
          const __m512 s = _mm512_permutexvar_ps(half, _mm512_maskz_loadu_ps(some, sin + i));
          const __m512 neighbours = _mm512_permute_ps(v, 0xB1);
          _mm512_mask_storeu_ps(head + 2 * i, mask, _mm512_fmaddsub_ps(v, c, _mm512_mul_ps(neighbours, s)));
        }
        continue;
      }
      for (int64_t i = 0; i < task.pairs; i += 16) {
        const __mmask16 mask = lanes(task.pairs - i);
        const __m512 c = _mm512_maskz_loadu_ps(mask, cos + i), s = _mm512_maskz_loadu_ps(mask, sin + i);
        const __m512 a = _mm512_maskz_loadu_ps(mask, head + i);
        const __m512 b = _mm512_maskz_loadu_ps(mask, head + task.pairs + i);
        _mm512_mask_storeu_ps(head + i, mask, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
        _mm512_mask_storeu_ps(head + task.pairs + i, mask, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
      }
    }
  }
}

}  // namespace autoglm::kernels::avx512
