#pragma once
/// StoredModel: a model folder opened for measuring what lies in its files, float or quantized; no weight is read.
#include <filesystem>
#include <optional>
#include <string>

#include "core/base/status.h"
#include "core/format/checkpoint.h"
#include "core/format/model_config.h"
#include "core/format/quant_scheme.h"
#include "core/format/tensor_layout.h"

namespace autoglm::eval {

struct StoredModel {
  format::ModelConfig config;
  format::Checkpoint checkpoint;
  format::TensorLayout layout;
  std::optional<format::QuantConfig> quantization;

  /// kBadInput names what is missing or contradicts itself.
  static Result<StoredModel> open(const std::filesystem::path& folder);

  /// The scheme a module's weight is stored by (its `weights` are set); nullptr for float weights.
  const format::QuantScheme* scheme_of(const format::ModuleSpec& module) const;

  /// "BF16", or "INT4 g128 symmetric" with what most quantized weights have, for people.
  std::string describe() const;

  /// Bytes of the weight files on disk, headers included.
  int64_t file_bytes() const;
};

/// "INT4 g64 asymmetric", "INT8 channel, activations INT8 token".
std::string describe(const format::QuantScheme& scheme);

}  // namespace autoglm::eval
