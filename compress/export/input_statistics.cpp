#include "compress/export/input_statistics.h"

#include <algorithm>
#include <cmath>
#include <system_error>

#include "core/format/file.h"

namespace autoglm::exports {
namespace {

using format::ModuleSpec;

constexpr const char* kFile = "statistics.st";

/// Under whose names the input of a linear may be kept: the first that needed it.
std::vector<const ModuleSpec*> readers_of(const format::TensorLayout& layout, const ModuleSpec& module) {
  const auto stage = format::stage_of(module.role);
  if (!stage) return {&module};
  std::vector<const ModuleSpec*> out;
  for (const ModuleSpec* one : layout.block(module.layer)) {
    if (one->expert == module.expert && format::stage_of(one->role) == stage) out.push_back(one);
  }
  return out;
}

}  // namespace

Result<InputStatistics> InputStatistics::open(const format::StoredModel& model) {
  InputStatistics out(model);
  const auto path = model.checkpoint.folder() / kFile;
  std::error_code error;
  const bool exists = std::filesystem::exists(path, error);
  if (error) return format::system_failure(path, "cannot be looked at", error.value());
  if (exists) {
    AUTOGLM_ASSIGN_OR_RETURN(out.file_, format::SafetensorsFile::open(path));
  }
  return out;
}

Status InputStatistics::copy(const format::StoredModel& model, format::FolderWriter& folder) {
  AUTOGLM_ASSIGN_OR_RETURN(const InputStatistics statistics, open(model));
  return statistics.file_ ? folder.copy_file(model.checkpoint.folder() / kFile, kFile) : ok_status();
}

/// A tensor of exactly this shape.
std::optional<std::vector<float>> InputStatistics::read(const ModuleSpec& module, std::string_view what,
                                                        const format::Shape& shape) const {
  if (!file_) return {};
  for (const ModuleSpec* reader : readers_of(model_->layout, module)) {
    const format::TensorInfo* info = file_->find(reader->name + std::string(what));
    if (info == nullptr || !format::is_float(info->dtype) || info->shape != shape) continue;
    std::vector<float> values(static_cast<size_t>(format::element_count(shape).value_or(0)));
    format::to_float(info->dtype, file_->bytes(*info), values);
    return values;
  }
  return {};
}

std::optional<std::vector<float>> InputStatistics::power(const ModuleSpec& module) const {
  const auto channels = static_cast<size_t>(module.shape.back());
  const auto values = read(module, ".channels", {4, module.shape.back()});  // min, max, mean, variance of each
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
  const auto values = read(module, ".tensor", {15});  // tokens, min, max, …
  if (!values) return {};
  const float largest = std::max(std::abs((*values)[1]), std::abs((*values)[2]));
  if (!std::isfinite(largest) || largest <= 0) return {};
  return largest;
}

}  // namespace autoglm::exports
