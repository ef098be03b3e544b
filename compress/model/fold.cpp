#include "compress/model/fold.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace autoglm::model {
namespace {

using format::FoldPoint;
using format::ModuleSpec;
using format::Role;

constexpr double kLargestScale = 1 << 16;

Linear* find_linear(Block& block, const ModuleSpec& module) {
  const auto stage = format::stage_of(module.role);
  if (!stage) return nullptr;
  const std::vector<Linear*> all = block.linears(*stage);
  const auto found = std::find_if(all.begin(), all.end(), [&](const Linear* l) { return l->spec.name == module.name; });
  return found == all.end() ? nullptr : *found;
}

/// The weight itself: of a linear, a norm, the router.
at::Tensor weight_of(Block& block, const ModuleSpec& module) {
  if (Linear* linear = find_linear(block, module)) return linear->weight;
  if (module.role == Role::kRouter) return block.moe->router;
  return block.*norm_member(module.role);
}

/// The producer's weight rows, and its bias where it has one.
std::pair<at::Tensor, at::Tensor> produced(Block& block, const FoldPoint& point) {
  const auto rows = [&](const at::Tensor& all) { return all.narrow(0, point.first_row, point.channels); };
  const Linear* linear = find_linear(block, *point.producer);
  const at::Tensor bias = linear != nullptr && linear->bias.defined() ? rows(linear->bias) : at::Tensor();
  return {rows(weight_of(block, *point.producer)), bias};
}

/// A weight that stays a float, as [n, channels].
struct Kept {
  at::Tensor values;
  at::ScalarType type;
  bool divided = false;

  /// Where the file will hold what it would have held, times the scale.
  at::Tensor exact(const at::Tensor& scales) const {
    const at::Tensor factors = divided ? scales.reciprocal() : scales;  // powers of two
    const auto stored = [&](const at::Tensor& x) { return x.to(type).to(at::kFloat); };
    return (stored(values.to(at::kFloat) * factors) == stored(values.to(at::kFloat)) * factors).all(0);
  }
};

std::vector<Kept> kept_weights(Block& block, const FoldPoint& point,
                               const std::function<StoredAs(const ModuleSpec&)>& stored) {
  std::vector<Kept> out;
  for (const ModuleSpec* consumer : point.consumers) {
    const auto type = stored(*consumer).weight;
    if (!type) continue;
    const at::Tensor heads =
        weight_of(block, *consumer).view({-1, point.channels / point.head, point.copies, point.head});
    out.push_back({heads.transpose(1, 2).reshape({-1, point.channels}), *type});
  }
  const auto type = stored(*point.producer).weight;
  if (type && point.producer->shape.size() == 2) out.push_back({produced(block, point).first.t(), *type, true});
  return out;
}

}  // namespace

std::function<at::Tensor(const at::Tensor& wanted)> storable_scales(
    Block& block, const FoldPoint& point, const std::function<StoredAs(const ModuleSpec& module)>& stored) {
  const auto [weight, bias] = produced(block, point);
  const bool norm = weight.dim() == 1;
  const at::Tensor vector = norm ? weight.to(at::kFloat) : bias.defined() ? bias.to(at::kFloat) : bias;
  return [kept = kept_weights(block, point, stored), norm, vector, device = weight.device(),
          type = stored(*point.producer).vector](const at::Tensor& wanted) {
    const at::Tensor one = at::ones({}, at::TensorOptions().dtype(at::kFloat).device(device));
    at::Tensor scales = wanted.to(device, at::kFloat);
    scales = at::where((scales > 0).logical_and(at::isfinite(scales)), scales, one);
    scales = scales.clamp(1 / kLargestScale, kLargestScale);
    if (!kept.empty()) scales = at::exp2(at::log2(scales).round());
    if (vector.defined()) {
      const at::Tensor moved = (vector / scales).to(type).to(at::kFloat);
      const at::Tensor usable = at::isfinite(moved).logical_and(moved != 0);
      const at::Tensor without = norm ? one : at::where(vector == 0, scales, one);  // a bias of zero stays zero
      const at::Tensor exact = moved * scales == vector.to(type).to(at::kFloat);
      scales = kept.empty() ? at::where(usable, vector / moved, without)
                            : at::where(usable.logical_and(exact), scales, without);
    }
    for (const Kept& one_kept : kept) scales = at::where(one_kept.exact(scales), scales, one);
    return scales;
  };
}

void fold(Block& block, const FoldPoint& point, const at::Tensor& scales) {
  const auto [weight, bias] = produced(block, point);
  weight.div_(weight.dim() == 1 ? scales : scales.unsqueeze(1));
  if (bias.defined()) bias.div_(scales);
  const at::Tensor columns = by_column(scales, point.head, point.copies);
  for (const ModuleSpec* consumer : point.consumers) weight_of(block, *consumer).mul_(columns);
}

at::Tensor by_column(const at::Tensor& scales, int64_t head, int64_t copies) {
  return scales.view({-1, 1, head}).expand({-1, copies, -1}).reshape({-1});
}

}  // namespace autoglm::model
