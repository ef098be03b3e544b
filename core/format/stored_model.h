#pragma once
/// StoredModel: a model folder opened, float or quantized: its config, its tensors, which module each belongs to and
/// how it is stored. No weight is read.
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/format/checkpoint.h"
#include "core/format/model_config.h"
#include "core/format/quant_scheme.h"
#include "core/format/tensor_layout.h"

namespace autoglm::format {

/// How the input of a linear is quantized, where the artifact asks for it.
struct InputQuant {
  QuantArgs args;
  float scale = 0;  ///< static (tensor M.input_scale): of every token; dynamic: 0
  float zero_point = 0;
  bool operator==(const InputQuant&) const = default;
};

struct StoredModel {
  ModelConfig config;
  Checkpoint checkpoint;
  TensorLayout layout;
  std::optional<QuantConfig> quantization;

  /// kBadInput names what is missing or contradicts itself: the folder, a tensor, a module that is stored quantized
  /// and has no scheme or the reverse.
  static Result<StoredModel> open(const std::filesystem::path& folder);

  /// The float model that config.json alone describes: its decoder's modules under their usual names, of the config's
  /// type; what else its checkpoint may hold (vision tower, MTP layers) is not known. kBadInput: no config.json, or a
  /// quantized model's.
  static Result<StoredModel> describe_config(const std::filesystem::path& folder);

  const ModuleSpec& embedding() const { return *layout.find(Role::kEmbedding); }
  const ModuleSpec& head() const;  ///< its own, or the embedding it is tied to

  /// The scheme a module's weight is stored by (its `weights` are set); nullptr for float weights.
  const QuantScheme* scheme_of(const ModuleSpec& module) const;

  /// kBadInput names the first scheme whose activations are quantized in a way that `runs` denies; `which` says in
  /// words what it admits.
  Status check_activations(const std::function<bool(const QuantArgs&)>& runs, std::string_view which) const;

  /// How the input of `module` is quantized; none for an embedding, which as a head has no input of its own. kBadInput:
  /// a static scale is missing, no single number, or not above 0, or a zero point out of range.
  Result<std::optional<InputQuant>> input_quant(const ModuleSpec& module) const;

  /// The tensors of the files that hold a module's weight: itself, or its integers, scales and what belongs to them.
  std::vector<std::string> weight_tensors(const ModuleSpec& module) const;
  int64_t weight_bytes(const ModuleSpec& module) const;  ///< of those tensors
  void release_weight(const ModuleSpec& module) const;   ///< gives their mapped pages back (Checkpoint::release)

  /// "BF16", or "INT4 g128 symmetric": what most weights have, for people.
  std::string describe() const;

  /// Bytes of the weight files on disk, headers included.
  int64_t file_bytes() const;
};

}  // namespace autoglm::format
