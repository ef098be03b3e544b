#pragma once
/// What a recipe means for one model: a decision for every module that will be written, and config.json's words for it.
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "compress/pass/recipe.h"
#include "compress/pass/registry.h"
#include "core/base/status.h"
#include "core/format/checkpoint.h"
#include "core/format/model_config.h"
#include "core/format/quant_scheme.h"
#include "core/format/tensor_layout.h"

namespace autoglm::pass {

/// One module of the model that will be written, and where its rows come from.
struct Decision {
  format::ModuleSpec module;
  format::ModuleSpec source;     ///< the same but for chatglm's names and its fused QKV, and for untied heads
  int64_t first_row = 0;         ///< of `source`
  std::optional<Scheme> scheme;  ///< none: copied as it is
  std::string method;            ///< registry name; "" for what is copied
  format::DType source_dtype = format::DType::kBF16;  ///< as stored
  format::DType scale_dtype = format::DType::kBF16;   ///< of its scales: the source's, at most fp32

  bool is_quantized() const { return scheme && !scheme->cast; }  ///< to integers
  bool splits() const { return first_row != 0 || module.shape != source.shape; }
};

struct Resolved {
  format::ModelConfig config;        ///< as it will be written
  format::TensorLayout layout;       ///< of what will be written, but for a head that was tied before
  std::vector<Decision> decisions;   ///< in the layout's order: embedding, blocks, final norm, head
  std::string smoother;              ///< registry name of what chooses scales to fold; "" for none
  std::vector<std::string> others;   ///< tensors that no module names, carried over untouched
  std::vector<std::string> dropped;  ///< tensors with no place in the written model (chatglm's rotary buffer)
  std::optional<format::QuantConfig> quantization;  ///< for config.json; none when every weight stays float
  std::vector<std::string> notes;                   ///< what was adapted, for the plan and the report

  /// The config.json to write, quantization_config and dtype included.
  std::string config_json() const;
  /// True when no method needs calibration: tensors can then be handled one by one.
  bool data_free(const Registry& registry, const Recipe& recipe) const;
};

/// The module of a source with `config` and `layout` whose rows `module`, as it is written, takes; and the first of
/// them.
std::pair<format::ModuleSpec, int64_t> source_of(const format::ModuleSpec& module, const format::ModelConfig& config,
                                                 const format::TensorLayout& layout);

/// `layout` is of `config`, resolved against `checkpoint` where there is one; without (a plan from config.json alone),
/// types are taken from the config and there are no others.
/// kInvalidArgument: a group size that does not divide, modules that share an input but not a format, an unknown
/// method word, a method that needs calibration where `calibrated` is false, an override that matches nothing, what no
/// loader reads. kBadInput: a source that is quantized already.
Result<Resolved> resolve(const Recipe& recipe, const format::ModelConfig& config, const format::TensorLayout& layout,
                         const format::Checkpoint* checkpoint, const Registry& registry, bool calibrated);

/// config.json's quantization_config for these decisions. Targets are the class `Linear` (and `Embedding`) for the
/// most frequent scheme, with everything else under `ignore`; other schemes name their modules. Routed experts, which
/// transformers loads by the first group with a regex that mentions them, get such a group wherever there are several.
std::optional<format::QuantConfig> describe_quantization(const std::vector<Decision>& decisions,
                                                         const std::vector<std::string>& others);

}  // namespace autoglm::pass
