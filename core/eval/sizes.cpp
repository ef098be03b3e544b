#include "core/eval/sizes.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>

namespace autoglm::eval {
namespace {

using format::Role;

constexpr const char* kParts[] = {"embedding", "attention", "mlp", "experts", "norms", "head", "other"};

const char* part_of(Role role) {
  switch (role) {
    case Role::kEmbedding: return "embedding";
    case Role::kHead: return "head";
    case Role::kQ:
    case Role::kK:
    case Role::kV:
    case Role::kQkv:
    case Role::kO: return "attention";
    case Role::kGate:
    case Role::kUp:
    case Role::kGateUp:
    case Role::kDown: return "mlp";
    case Role::kRouter:
    case Role::kRouterCorrection:
    case Role::kExpertGate:
    case Role::kExpertUp:
    case Role::kExpertDown:
    case Role::kSharedGate:
    case Role::kSharedUp:
    case Role::kSharedDown: return "experts";
    case Role::kFinalNorm:
    case Role::kInputNorm:
    case Role::kQNorm:
    case Role::kKNorm:
    case Role::kPostAttentionNorm:
    case Role::kMlpNorm:
    case Role::kPostMlpNorm: return "norms";
  }
  return "other";
}

struct Inventory {
  std::map<std::string, PartSize> parts;
  int64_t quantized_parameters = 0, quantized_bytes = 0;
};

Inventory take_inventory(const format::StoredModel& model) {
  Inventory inventory;
  std::set<std::string> named;
  const auto bytes_of = [&](const std::string& name) -> int64_t {
    const format::TensorInfo* tensor = model.checkpoint.find(name);
    if (tensor == nullptr || !named.insert(name).second) return 0;
    return tensor->nbytes;
  };
  for (const format::ModuleSpec& module : model.layout.modules()) {
    PartSize& part = inventory.parts[part_of(module.role)];
    const int64_t weights = format::element_count(module.shape).value_or(0);
    part.parameters += weights;
    if (model.scheme_of(module) != nullptr) {
      const int64_t scales = bytes_of(module.name + ".weight_scale") + bytes_of(module.name + ".weight_zero_point");
      const int64_t integers = bytes_of(module.name + ".weight_packed") + bytes_of(module.weight_name()) +
                               bytes_of(module.name + ".weight_shape");
      part.scale_bytes += scales;
      part.bytes += scales + integers;
      inventory.quantized_parameters += weights;
      inventory.quantized_bytes += scales + integers;
    } else {
      part.bytes += bytes_of(module.weight_name());
    }
    if (module.has_bias && model.checkpoint.find(module.bias_name()) != nullptr) {
      part.parameters += module.shape.empty() ? 0 : module.shape.front();
      part.bytes += bytes_of(module.bias_name());
    }
  }
  PartSize& other = inventory.parts["other"];
  for (const std::string& name : model.checkpoint.names()) {
    if (named.count(name) == 0) other.bytes += model.checkpoint.find(name)->nbytes;
  }
  for (const std::string& name : model.layout.others(model.checkpoint)) {  // a second copy of tied embeddings is none
    other.parameters += format::element_count(model.checkpoint.find(name)->shape).value_or(0);
  }
  return inventory;
}

double divide(double a, double b) { return b > 0 ? a / b : 0; }

}  // namespace

Sizes measure_sizes(const format::StoredModel& model, const format::StoredModel* source) {
  Inventory inventory = take_inventory(model);
  Inventory before = source != nullptr ? take_inventory(*source) : Inventory{};
  Sizes sizes;
  for (const char* name : kParts) {
    PartSize part = inventory.parts[name];
    part.part = name;
    part.source_bytes = before.parts[name].bytes;
    if (part.bytes == 0 && part.source_bytes == 0) continue;
    part.bits_per_weight = divide(8.0 * static_cast<double>(part.bytes), static_cast<double>(part.parameters));
    sizes.parameters += part.parameters;
    sizes.tensor_bytes += part.bytes;
    sizes.parts.push_back(std::move(part));
  }
  const auto parameters = static_cast<double>(sizes.parameters);
  const auto tensor_bytes = static_cast<double>(sizes.tensor_bytes);
  sizes.file_bytes = model.file_bytes();
  sizes.source_file_bytes = source != nullptr ? source->file_bytes() : 0;
  sizes.quantized_parameters = inventory.quantized_parameters;
  sizes.quantized_bits_per_weight =
      divide(8.0 * static_cast<double>(inventory.quantized_bytes), static_cast<double>(inventory.quantized_parameters));
  sizes.bits_per_weight = divide(8 * tensor_bytes, parameters);
  sizes.ratio = divide(static_cast<double>(sizes.source_file_bytes), static_cast<double>(sizes.file_bytes));
  sizes.ratio_16_bit = divide(2 * parameters, tensor_bytes);
  sizes.ratio_32_bit = divide(4 * parameters, tensor_bytes);
  return sizes;
}

}  // namespace autoglm::eval
