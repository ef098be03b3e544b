#include "core/format/stored_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <map>
#include <span>
#include <system_error>

#include "core/format/display.h"

namespace autoglm::format {
namespace {

bool is_quantizable(Role role) { return role == Role::kEmbedding || is_linear(role); }

/// Config and files agree on whether the weight of `module` is quantized.
Status check_storage(const StoredModel& model, const ModuleSpec& module) {
  const bool has_scheme = model.scheme_of(module) != nullptr;
  const TensorInfo* weight = model.checkpoint.find(module.weight_name());
  const bool is_plain = weight != nullptr && is_float(weight->dtype);
  if (has_scheme != is_plain) return ok_status();
  const std::string what = has_scheme ? fmt::format("is stored as {}, but a scheme of", to_string(weight->dtype))
                                      : "is stored quantized, but no scheme of";
  return bad_input(fmt::format("{}: module {} {} config.json's quantization_config names it",
                               display_path(model.checkpoint.folder()), display(module.name), what));
}

Status tensor_error(const Checkpoint& checkpoint, const std::string& name, std::string_view what) {
  return bad_input(fmt::format("{}: tensor {} {}", display_path(checkpoint.file_of(name)), display(name), what));
}

/// The value of a tensor of one element.
Result<float> read_number(const Checkpoint& checkpoint, const std::string& name) {
  const TensorInfo* info = checkpoint.find(name);
  if (info == nullptr) {
    return bad_input(fmt::format("{}: tensor {} is missing, which quantization_config asks for",
                                 display_path(checkpoint.folder()), display(name)));
  }
  if (info->nbytes != size_of(info->dtype)) {
    return tensor_error(checkpoint, name,
                        fmt::format("has shape [{}], but one value is expected", fmt::join(info->shape, ", ")));
  }
  AUTOGLM_ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, checkpoint.bytes(name));
  float value = 0;
  to_float(info->dtype, bytes, {&value, 1});
  if (std::isfinite(value)) return value;
  return tensor_error(checkpoint, name, std::isnan(value) ? "is NaN" : "is infinite");
}

}  // namespace

Result<StoredModel> StoredModel::open(const std::filesystem::path& folder) {
  AUTOGLM_ASSIGN_OR_RETURN(ModelConfig config, ModelConfig::load(folder));
  AUTOGLM_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::open(folder));
  std::optional<QuantConfig> quantization;  // before the tensors: another method's have other names
  if (const auto found = config.raw.find("quantization_config"); found != config.raw.end() && !found->is_null()) {
    auto parsed = QuantConfig::parse(*found);
    if (!parsed.ok()) return parsed.status().with_context(display_path(folder / "config.json"));
    quantization = std::move(*parsed);
  }
  AUTOGLM_ASSIGN_OR_RETURN(TensorLayout layout, TensorLayout::resolve(config, checkpoint));
  StoredModel model{std::move(config), std::move(checkpoint), std::move(layout), std::move(quantization)};
  for (const ModuleSpec& module : model.layout.modules()) {
    if (is_quantizable(module.role)) AUTOGLM_RETURN_IF_ERROR(check_storage(model, module));
  }
  return model;
}

Result<StoredModel> StoredModel::describe_config(const std::filesystem::path& folder) {
  AUTOGLM_ASSIGN_OR_RETURN(ModelConfig config, ModelConfig::load(folder));
  if (const auto found = config.raw.find("quantization_config"); found != config.raw.end() && !found->is_null()) {
    return bad_input(display_path(folder) +
                     ": the model is quantized; without its weight files nothing can be said of it");
  }
  TensorLayout layout = TensorLayout::describe(config);
  std::vector<TensorInfo> tensors;
  for (const ModuleSpec& module : layout.modules()) {
    tensors.push_back({.name = module.weight_name(), .dtype = config.dtype, .shape = module.shape});
    if (!module.has_bias) continue;
    tensors.push_back({.name = module.bias_name(), .dtype = config.dtype, .shape = {module.shape[0]}});
  }
  Checkpoint checkpoint = Checkpoint::describe(folder, std::move(tensors));
  return StoredModel{std::move(config), std::move(checkpoint), std::move(layout), {}};
}

const ModuleSpec& StoredModel::head() const {
  const ModuleSpec* own = layout.find(Role::kHead);
  return own != nullptr ? *own : embedding();
}

const QuantScheme* StoredModel::scheme_of(const ModuleSpec& module) const {
  if (!quantization || !is_quantizable(module.role)) return nullptr;
  const QuantScheme* scheme =
      quantization->scheme_for(module.name, module.role == Role::kEmbedding ? "Embedding" : "Linear");
  return scheme != nullptr && scheme->weights ? scheme : nullptr;
}

Status StoredModel::check_activations(const std::function<bool(const QuantArgs&)>& runs, std::string_view which) const {
  if (!quantization) return ok_status();
  for (const auto& [name, scheme] : quantization->config_groups) {
    if (!scheme.input_activations || runs(*scheme.input_activations)) continue;
    const QuantArgs& args = *scheme.input_activations;
    return bad_input(
        fmt::format("{}: quantization_config: {}: input_activations of strategy {}, {}, are not supported; "
                    "{} are",
                    display_path(checkpoint.folder() / "config.json"), name, to_string(args.strategy),
                    args.dynamic ? "dynamic" : "static", which));
  }
  return ok_status();
}

Result<std::optional<InputQuant>> StoredModel::input_quant(const ModuleSpec& module) const {
  const QuantScheme* scheme = scheme_of(module);
  if (scheme == nullptr || !scheme->input_activations || module.role == Role::kEmbedding) {
    return std::optional<InputQuant>();
  }
  InputQuant quant{.args = *scheme->input_activations};
  if (quant.args.dynamic) return std::optional(std::move(quant));
  const std::string name = module.name + ".input_scale";
  AUTOGLM_ASSIGN_OR_RETURN(quant.scale, read_number(checkpoint, name));
  if (!(quant.scale > 0)) return tensor_error(checkpoint, name, fmt::format("is {}, must be above 0", quant.scale));
  if (!quant.args.symmetric) {
    const std::string zero = module.name + ".input_zero_point";
    AUTOGLM_ASSIGN_OR_RETURN(quant.zero_point, read_number(checkpoint, zero));
    const int least = quant.args.q_min(), most = quant.args.q_max();
    if (quant.zero_point != std::nearbyint(quant.zero_point) || quant.zero_point < static_cast<float>(least) ||
        quant.zero_point > static_cast<float>(most)) {
      return tensor_error(checkpoint, zero,
                          fmt::format("is {}, must be a whole number from {} to {}", quant.zero_point, least, most));
    }
  }
  return std::optional(std::move(quant));
}

std::vector<std::string> StoredModel::weight_tensors(const ModuleSpec& module) const {
  std::vector<std::string> names = {module.weight_name()};
  for (const char* suffix : {".weight_packed", ".weight_scale", ".weight_zero_point", ".weight_shape", ".input_scale",
                             ".input_zero_point"}) {
    names.push_back(module.name + suffix);
  }
  std::erase_if(names, [&](const std::string& name) { return checkpoint.find(name) == nullptr; });
  return names;
}

int64_t StoredModel::weight_bytes(const ModuleSpec& module) const {
  int64_t total = 0;
  for (const std::string& name : weight_tensors(module)) total += checkpoint.find(name)->nbytes;
  return total;
}

void StoredModel::release_weight(const ModuleSpec& module) const {
  for (const std::string& name : weight_tensors(module)) checkpoint.release(name);
}

std::string StoredModel::describe() const {
  std::map<std::string, int64_t> parameters;  // by how they are stored
  for (const ModuleSpec& module : layout.modules()) {
    const QuantScheme* scheme = scheme_of(module);
    const TensorInfo* weight = checkpoint.find(module.weight_name());
    if (scheme == nullptr && weight == nullptr) continue;
    parameters[scheme != nullptr ? format::describe(*scheme) : std::string(to_string(weight->dtype))] +=
        element_count(module.shape).value_or(0);
  }
  std::string most;
  int64_t largest = -1;
  for (const auto& [storage, count] : parameters) {
    if (count > largest) most = storage, largest = count;
  }
  return most;
}

int64_t StoredModel::file_bytes() const {
  int64_t bytes = 0;
  for (const auto& file : checkpoint.files()) {
    std::error_code error;
    const auto size = std::filesystem::file_size(file, error);
    if (!error) bytes += static_cast<int64_t>(size);
  }
  return bytes;
}

}  // namespace autoglm::format
