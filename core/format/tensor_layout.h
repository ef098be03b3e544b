#pragma once
/// TensorLayout: which tensors a decoder has, under which names, in which shapes; from the config alone.
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "core/base/status.h"
#include "core/format/checkpoint.h"
#include "core/format/model_config.h"

namespace autoglm::format {

/// What a module does. Linear ones can be quantized; the router and the norms cannot.
enum class Role {
  kEmbedding,
  kFinalNorm,
  kHead,
  kInputNorm,
  kQ,
  kK,
  kV,
  kQkv,
  kQNorm,
  kKNorm,
  kO,
  kPostAttentionNorm,  // kPostAttentionNorm, kPostMlpNorm: sandwich norms
  kMlpNorm,
  kGate,
  kUp,
  kGateUp,
  kDown,
  kPostMlpNorm,
  kRouter,
  kRouterCorrection,
  kExpertGate,
  kExpertUp,
  kExpertDown,
  kSharedGate,
  kSharedUp,
  kSharedDown,
};
std::string_view to_string(Role role);
bool is_linear(Role role);  ///< a matrix that multiplies activations, head included, embedding and router excluded

/// The sub-layers of a block in the order in which they run; linears of one stage share their input.
enum class Stage { kQkv, kO, kGateUp, kDown };
inline constexpr Stage kStages[] = {Stage::kQkv, Stage::kO, Stage::kGateUp, Stage::kDown};
std::optional<Stage> stage_of(Role role);  ///< nothing for what is no linear of a block

/// One module: `name + ".weight"`, and `name + ".bias"` where it has one. kRouterCorrection's `name` is the whole name.
struct ModuleSpec {
  Role role = Role::kEmbedding;
  int64_t layer = -1;   ///< -1 outside the blocks
  int64_t expert = -1;  ///< -1 outside routed experts
  std::string name;     ///< as in the checkpoint: "model.layers.0.self_attn.q_proj"
  Shape shape;          ///< of the weight: [out, in], norms [n]
  bool has_bias = false;

  std::string weight_name() const;
  std::string bias_name() const { return name + ".bias"; }
};

/// Where a checkpoint keeps its decoder. The blocks' own names are the family's.
struct TensorPrefix {
  std::string decoder;  ///< before "layers.0", "embed_tokens" and "norm": "model."
  std::string head;     ///< the head's module: "lm_head"
};

/// Immutable after construction. Default-constructed: no modules.
class TensorLayout {
 public:
  TensorLayout() = default;

  /// From the config alone, with the family's usual names.
  static TensorLayout describe(const ModelConfig& config);

  /// As `describe`, with the prefix that the checkpoint really uses, and every tensor checked: kBadInput names the one
  /// that is missing or whose shape or type contradicts config.json. Quantized modules (weight_packed or an integer
  /// weight beside weight_scale) are known by their names and count as present; their own shapes are checked by the
  /// decoder. A head stored beside tied embeddings must equal them, else kBadInput says how to use it.
  static Result<TensorLayout> resolve(const ModelConfig& config, const Checkpoint& checkpoint);

  /// In order of use: embedding, block after block, final norm, head (absent when the embedding is the head).
  const std::vector<ModuleSpec>& modules() const& { return modules_; }
  const std::vector<ModuleSpec>& modules() && = delete;       // it would not outlive the expression
  std::vector<const ModuleSpec*> block(int64_t layer) const;  ///< in order of use; pointers live as long as the layout
  const ModuleSpec* find(Role role, int64_t layer = -1, int64_t expert = -1) const;  ///< nullptr when absent

  /// Tensors of the checkpoint that no module names (vision tower, MTP layers, rotary buffers), in the checkpoint's
  /// order: carried over untouched. A copy of tied embeddings stored as a head is none of them, the embedding is it.
  std::vector<std::string> others(const Checkpoint& checkpoint) const;

  /// Of those, the layers numbered after the decoder's and its MTP layers: num_hidden_layers of `config` is too small,
  /// or the checkpoint holds what it should not. In rising order.
  std::vector<int64_t> surplus_layers(const ModelConfig& config, const Checkpoint& checkpoint) const;

 private:
  TensorLayout(const ModelConfig& config, const TensorPrefix& prefix);
  void add(Role role, std::string name, Shape shape, bool has_bias = false, int64_t layer = -1, int64_t expert = -1);
  void add_block(const ModelConfig& config, const std::string& prefix, int64_t layer);
  void add_experts(const ModelConfig& config, const std::string& prefix, int64_t layer);

  std::vector<ModuleSpec> modules_;
  std::map<std::tuple<Role, int64_t, int64_t>, size_t> index_;  ///< (role, layer, expert) to its place in modules_
  std::string tied_head_;  ///< the module name of a head that is the embedding; "" when it is stored on its own
};

}  // namespace autoglm::format
