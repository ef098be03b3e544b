#pragma once
/// InputStatistics: what calibration saw at the inputs of an artifact's linears (statistics.st, docs/FORMATS.md).
#include <optional>
#include <vector>

#include "core/base/status.h"
#include "core/format/folder_writer.h"
#include "core/format/safetensors.h"
#include "core/format/stored_model.h"

namespace autoglm::exports {

/// Linears of one stage of a block (or expert) read the same input, which is kept under the first of them that needed
/// it; of routed experts without its channels.
class InputStatistics {
 public:
  /// Of the folder of `model`, which must outlive the result; nothing is known where it has no such file. kBadInput: it
  /// is damaged.
  static Result<InputStatistics> open(const format::StoredModel& model);

  /// Puts the file, where the model has it, into a folder whose linears have the same names.
  static Status copy(const format::StoredModel& model, format::FolderWriter& folder);

  /// The mean square of each channel of the input of `module`, what a unit of squared error of a weight's column costs;
  /// none where it is not known or not finite.
  std::optional<std::vector<float>> power(const format::ModuleSpec& module) const;

  /// The largest magnitude of the input of `module`, above 0.
  std::optional<float> largest(const format::ModuleSpec& module) const;

 private:
  explicit InputStatistics(const format::StoredModel& model) : model_(&model) {}
  std::optional<std::vector<float>> read(const format::ModuleSpec& module, std::string_view what,
                                         const format::Shape& shape) const;

  const format::StoredModel* model_;
  std::optional<format::SafetensorsFile> file_;
};

}  // namespace autoglm::exports
