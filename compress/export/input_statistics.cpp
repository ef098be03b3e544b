#include "compress/export/input_statistics.h"

#include <algorithm>
#include <cmath>

namespace autoglm::exports {
namespace {

using format::ModuleSpec;
using format::Role;

constexpr const char* kFile = "statistics.st";

/// Under whose name the input of a linear is kept; nullptr where it is not known.
const ModuleSpec* reader_of(const format::TensorLayout& layout, const ModuleSpec& module) {
  const auto stage = format::stage_of(module.role);
  if (!stage) return &module;
  if (module.role == Role::kExpertDown && module.expert > 0) return nullptr;
  for (const ModuleSpec* one : layout.block(module.layer)) {
    const bool is_alike = (one->expert >= 0) == (module.expert >= 0);
    if (is_alike && format::stage_of(one->role) == stage) return one;
  }
  return &module;
}

}  // namespace

Result<InputStatistics> InputStatistics::open(const format::StoredModel& model) {
  InputStatistics out(model);
  const auto path = model.checkpoint.folder() / kFile;
  if (std::error_code error; std::filesystem::exists(path, error)) {
    AUTOGLM_ASSIGN_OR_RETURN(out.file_, format::SafetensorsFile::open(path));
  }
  return out;
}

/// The first `count` values of a tensor.
std::optional<std::vector<float>> InputStatistics::read(const ModuleSpec& module, std::string_view what,
                                                        size_t count) const {
  const ModuleSpec* reader = file_ ? reader_of(model_->layout, module) : nullptr;
  if (reader == nullptr) return {};
  const format::TensorInfo* info = file_->find(reader->name + std::string(what));
  if (info == nullptr || !format::is_float(info->dtype)) return {};
  if (info->nbytes / format::size_of(info->dtype) < static_cast<int64_t>(count)) return {};
  std::vector<float> values(count);
  format::to_float(info->dtype, file_->bytes(*info), values);
  return values;
}

std::optional<std::vector<float>> InputStatistics::power(const ModuleSpec& module) const {
  const auto channels = static_cast<size_t>(module.shape.back());
  const auto values = read(module, ".channels", 4 * channels);  // min, max, mean, variance of each
  if (!values) return {};
  std::vector<float> out(channels);
  double total = 0;
  for (size_t i = 0; i < channels; ++i) {
    const float mean = (*values)[2 * channels + i], variance = (*values)[3 * channels + i];
    out[i] = mean * mean + std::max(variance, 0.0F);
    total += out[i];
  }
  if (!std::isfinite(total) || total <= 0) return {};
  return out;
}

std::optional<float> InputStatistics::largest(const ModuleSpec& module) const {
  const auto values = read(module, ".tensor", 3);  // tokens, min, max
  if (!values) return {};
  const float largest = std::max(std::abs((*values)[1]), std::abs((*values)[2]));
  if (!std::isfinite(largest) || largest <= 0) return {};
  return largest;
}

}  // namespace autoglm::exports
