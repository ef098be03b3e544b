#include "compress/model/rotary.h"

#include <ATen/ATen.h>

#include <vector>

#include "core/format/rope.h"

namespace autoglm::model {

Rotary Rotary::build(const format::ModelConfig& config, int64_t length, at::Device device, int64_t sequence_length) {
  const std::vector<double> frequencies =
      format::rope_inverse_frequencies(config, sequence_length > 0 ? sequence_length : length);
  // In float throughout, so that far positions get the rounding that transformers gives them.
  const at::Tensor frequency = at::tensor(frequencies, at::kDouble).to(at::kFloat);
  const at::Tensor angles = at::outer(at::arange(length, at::kFloat), frequency);
  const double scaling = format::rope_attention_scaling(config);
  return {angles.cos().mul_(scaling).to(device), angles.sin().mul_(scaling).to(device)};
}

void rotate(at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, format::RotaryLayout layout) {
  const int64_t pairs = cos.size(-1);
  if (pairs == 0) return;
  const bool interleaved = layout == format::RotaryLayout::kInterleaved;
  const at::Tensor rotated = x.narrow(-1, 0, 2 * pairs);
  if (interleaved && x.scalar_type() == at::kFloat) {
    // (a + bi)(cos + i sin): one pass over memory, six times as fast as the general way.
    at::view_as_complex(rotated.unflatten(-1, {pairs, 2})).mul_(at::complex(cos, sin));
    return;
  }
  const at::Tensor halves = interleaved ? rotated.unflatten(-1, {pairs, 2}) : rotated.unflatten(-1, {2, pairs});
  const int64_t axis = interleaved ? -1 : -2;
  at::Tensor a = halves.select(axis, 0), b = halves.select(axis, 1);
  const at::Tensor c = cos.to(x.scalar_type()), s = sin.to(x.scalar_type());
  const at::Tensor a_sin = a * s;
  a.mul_(c).sub_(b * s);
  b.mul_(c).add_(a_sin);
}

}  // namespace autoglm::model
