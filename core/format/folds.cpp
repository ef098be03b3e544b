#include "core/format/folds.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <optional>
#include <span>

#include "core/format/display.h"
#include "core/format/safetensors.h"
#include "core/format/shard_writer.h"

namespace autoglm::format {
namespace {

/// The modules of one layer that there are, whatever the family.
class Layer {
 public:
  Layer(const TensorLayout& layout, int64_t layer) : layout_(layout), layer_(layer) {}

  const ModuleSpec* find(Role role, int64_t expert = -1) const { return layout_.find(role, layer_, expert); }

  FoldPoint point(FoldKind kind, const ModuleSpec& producer, int64_t channels) const {
    FoldPoint out{.kind = kind, .producer = &producer, .channels = channels, .head = channels};
    out.first_row = producer.shape[0] - channels;  // v and up come last in what is fused
    return out;
  }

  void add_consumers(FoldPoint& point, std::initializer_list<Role> roles, int64_t expert = -1) const {
    for (const Role role : roles) {
      if (const ModuleSpec* module = find(role, expert)) point.consumers.push_back(module);
    }
  }

 private:
  const TensorLayout& layout_;
  int64_t layer_;
};

std::string check_scales(const TensorInfo& tensor, const FoldPoint* point, std::span<const float> scales) {
  if (point == nullptr) return "belongs to no fold of this model";
  if (tensor.dtype != DType::kF32 || tensor.shape != Shape{point->channels}) {
    return fmt::format("must be F32 of {} numbers", point->channels);
  }
  for (const float scale : scales) {
    if (!std::isfinite(scale) || !(scale > 0)) return fmt::format("holds the scale {}", scale);
  }
  return "";
}

}  // namespace

std::string_view to_string(FoldKind kind) {
  switch (kind) {
    case FoldKind::kInputNorm: return "input_norm";
    case FoldKind::kValue: return "value";
    case FoldKind::kMlpNorm: return "mlp_norm";
    case FoldKind::kUp: return "up";
  }
  return "unknown";
}

std::vector<FoldPoint> fold_points(const TensorLayout& layout, const ModelConfig& config, int64_t number) {
  const Layer layer(layout, number);
  std::vector<FoldPoint> out;

  FoldPoint attention = layer.point(FoldKind::kInputNorm, *layer.find(Role::kInputNorm), config.hidden_size);
  layer.add_consumers(attention, {Role::kQ, Role::kK, Role::kV, Role::kQkv});
  out.push_back(std::move(attention));

  const ModuleSpec* v = layer.find(Role::kV) != nullptr ? layer.find(Role::kV) : layer.find(Role::kQkv);
  FoldPoint value = layer.point(FoldKind::kValue, *v, config.num_key_value_heads * config.head_dim);
  value.head = config.head_dim;
  value.copies = config.num_attention_heads / config.num_key_value_heads;
  layer.add_consumers(value, {Role::kO});
  out.push_back(std::move(value));

  FoldPoint mlp = layer.point(FoldKind::kMlpNorm, *layer.find(Role::kMlpNorm), config.hidden_size);
  layer.add_consumers(mlp, {Role::kRouter, Role::kGate, Role::kUp, Role::kGateUp, Role::kSharedGate, Role::kSharedUp});
  std::vector<FoldPoint> downs;
  const auto add_down = [&](Role up, Role down, int64_t expert = -1) {
    const ModuleSpec* consumer = layer.find(down, expert);
    if (consumer == nullptr || layer.find(up, expert) == nullptr) return;
    downs.push_back(layer.point(FoldKind::kUp, *layer.find(up, expert), consumer->shape[1]));
    downs.back().consumers = {consumer};
  };
  add_down(Role::kUp, Role::kDown);
  add_down(Role::kGateUp, Role::kDown);
  const int64_t experts = config.is_moe_layer(number) ? config.n_routed_experts : 0;
  for (int64_t expert = 0; expert < experts; ++expert) {
    layer.add_consumers(mlp, {Role::kExpertGate, Role::kExpertUp}, expert);
    add_down(Role::kExpertUp, Role::kExpertDown, expert);
  }
  add_down(Role::kSharedUp, Role::kSharedDown);
  out.push_back(std::move(mlp));
  for (FoldPoint& down : downs) out.push_back(std::move(down));
  return out;
}

void Folds::add(const FoldPoint& point, std::vector<float> scales) {
  const auto stored = std::make_shared<const std::vector<float>>(std::move(scales));
  scales_[point.producer->name] = stored;
  Factors divisors = stored;
  if (point.producer->shape[0] != point.channels) {
    std::vector<float> all(static_cast<size_t>(point.producer->shape[0]), 1.0F);
    std::copy(stored->begin(), stored->end(), all.begin() + point.first_row);
    divisors = std::make_shared<const std::vector<float>>(std::move(all));
  }
  rows_[point.producer->name] = divisors;
  Factors multipliers = stored;
  if (point.copies > 1) {
    std::vector<float> all(static_cast<size_t>(point.channels * point.copies));
    for (size_t c = 0; c < all.size(); ++c) {
      all[c] = (*stored)[static_cast<size_t>(point.channel_of(static_cast<int64_t>(c)))];
    }
    multipliers = std::make_shared<const std::vector<float>>(std::move(all));
  }
  for (const ModuleSpec* consumer : point.consumers) columns_[consumer->name] = multipliers;
}

void Folds::merge(const Folds& other) {
  scales_.insert(other.scales_.begin(), other.scales_.end());
  rows_.insert(other.rows_.begin(), other.rows_.end());
  columns_.insert(other.columns_.begin(), other.columns_.end());
}

std::span<const float> Folds::at(const std::string& producer) const {
  const auto found = scales_.find(producer);
  return found == scales_.end() ? std::span<const float>() : std::span<const float>(*found->second);
}

template <typename Scale>
void Folds::scale(const std::string& module, int64_t first, int64_t cols, std::span<float> rows, Scale scale) const {
  const auto row = rows_.find(module), column = columns_.find(module);
  const size_t width = static_cast<size_t>(cols);
  // A bias has no columns of its own.
  const std::vector<float>* multipliers =
      column != columns_.end() && column->second->size() == width && cols > 1 ? column->second.get() : nullptr;
  for (size_t at = 0, r = static_cast<size_t>(first); at < rows.size(); at += width, ++r) {
    const float divisor = row != rows_.end() && r < row->second->size() ? (*row->second)[r] : 1.0F;
    for (size_t c = 0; c < width; ++c) {
      scale(rows[at + c], divisor, multipliers != nullptr ? (*multipliers)[c] : 1.0F);
    }
  }
}

void Folds::apply(const std::string& module, int64_t first, int64_t cols, std::span<float> rows) const {
  if (!changes(module)) return;
  scale(module, first, cols, rows, [](float& value, float divisor, float factor) { value = value / divisor * factor; });
}

void Folds::undo(const std::string& module, int64_t first, int64_t cols, std::span<float> rows) const {
  if (!changes(module)) return;
  scale(module, first, cols, rows, [](float& value, float divisor, float factor) { value = value / factor * divisor; });
}

Status Folds::write(const std::filesystem::path& folder) const {
  std::vector<StoredTensor> tensors;
  for (const auto& [name, scales] : scales_) {
    const auto bytes = std::as_bytes(std::span(*scales));
    tensors.push_back({.name = name,
                       .dtype = DType::kF32,
                       .shape = {static_cast<int64_t>(scales->size())},
                       .bytes = {bytes.begin(), bytes.end()}});
  }
  return write_tensors(folder / kFile, tensors);
}

Result<Folds> Folds::read(const std::filesystem::path& folder, const TensorLayout& layout, const ModelConfig& config) {
  Folds out;
  std::error_code error;
  const std::filesystem::path path = folder / kFile;
  if (!std::filesystem::exists(path, error)) return out;
  AUTOGLM_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::open(path));
  std::map<std::string_view, FoldPoint> points;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (FoldPoint& point : fold_points(layout, config, layer)) points[point.producer->name] = std::move(point);
  }
  for (const TensorInfo& tensor : file.tensors()) {
    const auto found = points.find(tensor.name);
    std::vector<float> scales(tensor.dtype == DType::kF32 ? static_cast<size_t>(tensor.nbytes) / sizeof(float) : 0);
    if (!scales.empty()) std::memcpy(scales.data(), file.bytes(tensor).data(), scales.size() * sizeof(float));
    const std::string wrong = check_scales(tensor, found == points.end() ? nullptr : &found->second, scales);
    if (!wrong.empty()) {
      return bad_input(fmt::format("{}: tensor {} {}; remove the file to do without it", display_path(path),
                                   display(tensor.name), wrong));
    }
    out.add(found->second, std::move(scales));
  }
  return out;
}

}  // namespace autoglm::format
