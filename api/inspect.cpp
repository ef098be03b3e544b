#include <autoglm/inspect.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "api/model_source.h"
#include "compress/tensor/bridge.h"
#include "core/base/memory.h"
#include "core/eval/sizes.h"
#include "core/eval/table.h"
#include "core/format/stored_model.h"

namespace autoglm {
namespace {

using nlohmann::ordered_json;

ordered_json config_json(const format::ModelConfig& config) {
  ordered_json out;
  for (const auto& [key, value] : config.describe()) out[key] = value;
  return out;
}

std::string shape_text(const format::Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

// Everything stored for one module.
int64_t module_bytes(const format::StoredModel& model, const format::ModuleSpec& module) {
  const auto* bias = module.has_bias ? model.checkpoint.find(module.bias_name()) : nullptr;
  return model.weight_bytes(module) + (bias != nullptr ? bias->nbytes : 0);
}

std::string storage(const format::StoredModel& model, const format::ModuleSpec& module) {
  if (const auto* scheme = model.scheme_of(module)) return format::describe(*scheme);
  const auto* tensor = model.checkpoint.find(module.weight_name());
  return tensor != nullptr ? std::string(to_string(tensor->dtype)) : "";
}

ordered_json modules_json(const format::StoredModel& model) {
  ordered_json out = ordered_json::array();
  for (const auto& module : model.layout.modules()) {
    out.push_back({{"name", module.name},
                   {"role", to_string(module.role)},
                   {"layer", module.layer},
                   {"shape", module.shape},
                   {"bytes", module_bytes(model, module)},
                   {"storage", storage(model, module)}});
  }
  return out;
}

std::string modules_text(const format::StoredModel& model) {
  eval::Table table({"module", "shape", "storage", "bytes"});
  for (const auto& module : model.layout.modules()) {
    table.add_row(
        {module.name, shape_text(module.shape), storage(model, module), format_bytes(module_bytes(model, module))});
  }
  for (const std::string& name : model.layout.others(model.checkpoint)) {
    const auto* tensor = model.checkpoint.find(name);
    table.add_row(
        {name, shape_text(tensor->shape), std::string(to_string(tensor->dtype)), format_bytes(tensor->nbytes)});
  }
  return table.text();
}

std::string parts_text(const eval::Sizes& sizes) {
  eval::Table table({"part", "parameters", "bytes", "bits per weight"});
  for (const auto& part : sizes.parts) {
    table.add_row({part.part, fmt::format("{}", part.parameters), format_bytes(part.bytes),
                   fmt::format("{:.2f}", part.bits_per_weight)});
  }
  table.add_row({"all", fmt::format("{}", sizes.parameters), format_bytes(sizes.tensor_bytes),
                 fmt::format("{:.2f}", sizes.bits_per_weight)});
  return table.text();
}

ordered_json sizes_json(const eval::Sizes& sizes) {
  ordered_json parts = ordered_json::array();
  for (const auto& part : sizes.parts) {
    parts.push_back({{"part", part.part},
                     {"parameters", part.parameters},
                     {"bytes", part.bytes},
                     {"bits_per_weight", part.bits_per_weight}});
  }
  return {{"parameters", sizes.parameters},
          {"tensor_bytes", sizes.tensor_bytes},
          {"file_bytes", sizes.file_bytes},
          {"bits_per_weight", sizes.bits_per_weight},
          {"parts", parts}};
}

// One line per layer: its bytes and how its weights are stored, layers that are alike taken together.
std::string layers_text(const format::StoredModel& model) {
  struct Run {
    int64_t first, last;
    int64_t bytes;
    std::string storage;
  };
  std::vector<Run> runs;
  for (int64_t layer = 0; layer < model.config.num_hidden_layers; ++layer) {
    int64_t bytes = 0;
    std::vector<std::string> kinds;
    for (const auto* module : model.layout.block(layer)) {
      bytes += module_bytes(model, *module);
      if (!is_linear(module->role)) continue;
      const std::string kind = storage(model, *module);
      if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
    }
    std::string text = fmt::format("{}{}", model.config.is_moe_layer(layer) ? "experts, " : "", fmt::join(kinds, "; "));
    if (!runs.empty() && runs.back().storage == text && runs.back().bytes == bytes) {
      runs.back().last = layer;
    } else {
      runs.push_back({layer, layer, bytes, std::move(text)});
    }
  }
  eval::Table table({"layers", "bytes each", "weights"});
  for (const Run& run : runs) {
    table.add_row({run.first == run.last ? fmt::format("{}", run.first) : fmt::format("{}-{}", run.first, run.last),
                   format_bytes(run.bytes), run.storage});
  }
  return table.text();
}

Result<InspectOutcome> run(const std::string& name, bool all_tensors) {
  AUTOGLM_ASSIGN_OR_RETURN(const auto folder, api::find_model(name, CancelToken::global(), hub::Fetch::kConfig));
  const bool has_weights = format::Checkpoint::is_in(folder);
  AUTOGLM_ASSIGN_OR_RETURN(
      const auto model, has_weights ? format::StoredModel::open(folder) : format::StoredModel::describe_config(folder));
  const eval::Sizes sizes = eval::measure_sizes(model, nullptr);
  const auto others = model.layout.others(model.checkpoint);

  ordered_json json = {{"folder", folder.string()},
                       {"family", to_string(model.config.family)},
                       {"storage", model.describe()},
                       {"has_weights", has_weights},
                       {"config", config_json(model.config)},
                       {"sizes", sizes_json(sizes)},
                       {"carried_over", others},
                       {"modules", modules_json(model)}};
  if (model.quantization) json["quantization_config"] = model.quantization->to_json();

  std::string text =
      fmt::format("{}: {}, {} layers, hidden {}, {} heads ({} key/value) of {}, vocabulary {}, stored as {}{}\n\n",
                  folder.string(), to_string(model.config.family), model.config.num_hidden_layers,
                  model.config.hidden_size, model.config.num_attention_heads, model.config.num_key_value_heads,
                  model.config.head_dim, model.config.vocab_size, model.describe(),
                  has_weights ? "" : " (config.json alone; the folder has no weight files)");
  text += all_tensors ? modules_text(model) : layers_text(model);
  text += fmt::format("\n{}", parts_text(sizes));
  if (!others.empty() && !all_tensors) {
    text += fmt::format("\n{} tensors that are no part of the decoder (--tensors lists them), first: {}\n",
                        others.size(), others.front());
  }
  return InspectOutcome{json.dump(2, ' ', false, ordered_json::error_handler_t::replace), text};
}

}  // namespace

Result<InspectOutcome> inspect(const std::string& model, bool all_tensors) {
  return tensor::guarded([&] { return run(model, all_tensors); });
}

}  // namespace autoglm
