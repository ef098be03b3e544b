#include "runtime/kernels/generic/generic.h"

namespace autoglm::kernels::generic {

void rotary(const RotaryTask& task) {
  const int64_t step = task.interleaved ? 2 : 1, partner = task.interleaved ? 1 : task.pairs;
  for (int64_t t = 0; t < task.tokens; ++t) {
    for (int64_t h = 0; h < task.heads; ++h) {
      float* head = task.x + t * task.stride + h * task.head_dim;
      for (int64_t i = 0; i < task.pairs; ++i) {
        const float cos = task.cos[t * task.pairs + i], sin = task.sin[t * task.pairs + i];
        const float a = head[i * step], b = head[i * step + partner];
        head[i * step] = a * cos - b * sin;
        head[i * step + partner] = b * cos + a * sin;
      }
    }
  }
}

}  // namespace autoglm::kernels::generic
