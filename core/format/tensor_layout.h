#pragma once
/// TensorLayout: which tensors a decoder has, under which names, in which shapes; from the config alone.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/format/checkpoint.h"
#include "core/format/model_config.h"

namespace autoglm::format {

/// What a module does. Linear ones can be quantized; the router and the norms cannot.
enum class Role {
  kEmbedding, kFinalNorm, kHead,
  kInputNorm, kQ, kK, kV, kQkv, kQNorm, kKNorm, kO, kPostAttentionNorm,  // kPostAttentionNorm, kPostMlpNorm: sandwich norms
  kMlpNorm, kGate, kUp, kGateUp, kDown, kPostMlpNorm,
  kRouter, kRouterCorrection,
  kExpertGate, kExpertUp, kExpertDown, kSharedGate, kSharedUp, kSharedDown,
};
std::string_view to_string(Role role);
bool is_linear(Role role);   ///< a matrix that multiplies activations, head included, embedding and router excluded

/// The sub-layers of a block in the order in which they run; linears of one stage share their input.
enum class Stage { kQkv, kO, kGateUp, kDown };
inline constexpr Stage kStages[] = {Stage::kQkv, Stage::kO, Stage::kGateUp, Stage::kDown};
std::optional<Stage> stage_of(Role role);   ///< nothing for what is no linear of a block

/// One module: `name + ".weight"`, and `name + ".bias"` where it has one. kRouterCorrection's `name` is the whole name.
struct ModuleSpec {
  Role role = Role::kEmbedding;
  int64_t layer = -1;    ///< -1 outside the blocks
  int64_t expert = -1;   ///< -1 outside routed experts
  std::string name;      ///< as in the checkpoint: "model.layers.0.self_attn.q_proj"
  Shape shape;           ///< of the weight: [out, in], norms [n]
  bool has_bias = false;

  std::string weight_name() const;
  std::string bias_name() const { return name + ".bias"; }
};

/// Immutable after construction.
class TensorLayout {
 public:
  /// From the config alone, with the family's usual names.
  static TensorLayout describe(const ModelConfig& config);

  /// As `describe`, with the prefix that the checkpoint really uses, and every tensor checked: kBadInput names the one
  /// that is missing or whose shape contradicts config.json. Quantized modules (weight_packed or an integer weight
  /// beside weight_scale) are known by their names and count as present; their own shapes are checked by the decoder.
  static Result<TensorLayout> resolve(const ModelConfig& config, const Checkpoint& checkpoint);

  const std::vector<ModuleSpec>& modules() const { return modules_; }
  std::vector<const ModuleSpec*> block(int64_t layer) const;   ///< in order of use
  const ModuleSpec* find(Role role, int64_t layer = -1, int64_t expert = -1) const;

  /// Tensors of the checkpoint that no module names (vision tower, MTP layers, rotary buffers): carried over untouched.
  std::vector<std::string> others(const Checkpoint& checkpoint) const;

 private:
  std::vector<ModuleSpec> modules_;
};

}  // namespace autoglm::format
