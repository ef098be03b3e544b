#include "runtime/engine/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/format/display.h"
#include "core/format/dtype.h"
#include "runtime/engine/packed_model.h"
#include "runtime/engine/weight_reader.h"

namespace autoglm::engine {

using format::ModuleSpec;

Result<std::unique_ptr<const Weights>> Weights::open(const std::filesystem::path& folder) {
  AUTOGLM_ASSIGN_OR_RETURN(const format::ModelConfig config, format::ModelConfig::load(folder));
  if (is_packed(config)) {
    AUTOGLM_ASSIGN_OR_RETURN(PackedModel packed, PackedModel::open(folder));
    return std::unique_ptr<const Weights>(std::make_unique<const PackedModel>(std::move(packed)));
  }
  AUTOGLM_ASSIGN_OR_RETURN(WeightReader reader, WeightReader::open(folder));
  return std::unique_ptr<const Weights>(std::make_unique<const WeightReader>(std::move(reader)));
}

const ModuleSpec& Weights::head() const {
  const ModuleSpec* own = layout().find(format::Role::kHead);
  return own != nullptr ? *own : embedding();
}

Result<Weights::Bytes> Weights::bytes() const {
  AUTOGLM_ASSIGN_OR_RETURN(const std::vector<Matrix> all, matrices());
  Bytes total;
  for (const Matrix& matrix : all) {
    total.packed += matrix.bytes.packed;
    total.mapped += matrix.bytes.mapped;
  }
  return total;
}

Result<std::vector<float>> finite_floats(const format::Checkpoint& checkpoint, const std::string& name) {
  const format::TensorInfo* info = checkpoint.find(name);
  if (info == nullptr) {
    return bad_input(
        fmt::format("{}: tensor {} is missing", format::display_path(checkpoint.folder()), format::display(name)));
  }
  AUTOGLM_ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, checkpoint.bytes(name));
  std::vector<float> values(bytes.size() / static_cast<size_t>(format::size_of(info->dtype)));
  format::to_float(info->dtype, bytes, values);
  const auto bad = std::find_if(values.begin(), values.end(), [](float x) { return !std::isfinite(x); });
  if (bad == values.end()) return values;
  return bad_input(fmt::format("{}: tensor {}: element {} is {}", format::display_path(checkpoint.file_of(name)),
                               format::display(name), bad - values.begin(), std::isnan(*bad) ? "NaN" : "infinite"));
}

std::vector<std::vector<const ModuleSpec*>> matrices_of_block(const format::TensorLayout& layout, int64_t layer) {
  std::vector<std::vector<const ModuleSpec*>> lots;
  const ModuleSpec* before = nullptr;
  for (const ModuleSpec* module : layout.block(layer)) {
    if (module->shape.size() != 2) continue;
    // Modules that share their input stand together in the layout.
    const bool joins = before != nullptr && format::stage_of(before->role) == format::stage_of(module->role) &&
                       before->expert == module->expert;
    if (!joins) lots.emplace_back();
    lots.back().push_back(module);
    before = module;
  }
  return lots;
}

}  // namespace autoglm::engine
