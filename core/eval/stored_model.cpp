#include "core/eval/stored_model.h"

#include <fmt/format.h>

#include <map>
#include <system_error>

namespace autoglm::eval {
namespace {

std::string describe(const format::QuantArgs& args) {
  std::string out = fmt::format("INT{} ", args.num_bits);
  out += args.strategy == format::Strategy::kGroup ? fmt::format("g{}", args.group_size)
                                                   : std::string(format::to_string(args.strategy));
  return out + (args.symmetric ? " symmetric" : " asymmetric");
}

}  // namespace

std::string describe(const format::QuantScheme& scheme) {
  std::string out = scheme.weights ? describe(*scheme.weights) : "float";
  if (scheme.input_activations) out += ", activations " + describe(*scheme.input_activations);
  return out;
}

Result<StoredModel> StoredModel::open(const std::filesystem::path& folder) {
  AUTOGLM_ASSIGN_OR_RETURN(format::ModelConfig config, format::ModelConfig::load(folder));
  AUTOGLM_ASSIGN_OR_RETURN(format::Checkpoint checkpoint, format::Checkpoint::open(folder));
  AUTOGLM_ASSIGN_OR_RETURN(format::TensorLayout layout, format::TensorLayout::resolve(config, checkpoint));
  std::optional<format::QuantConfig> quantization;
  if (const auto found = config.raw.find("quantization_config"); found != config.raw.end() && !found->is_null()) {
    auto parsed = format::QuantConfig::parse(*found);
    if (!parsed.ok()) return parsed.status().with_context((folder / "config.json").string());
    quantization = std::move(parsed).value();
  }
  return StoredModel{std::move(config), std::move(checkpoint), std::move(layout), std::move(quantization)};
}

const format::QuantScheme* StoredModel::scheme_of(const format::ModuleSpec& module) const {
  const bool embedding = module.role == format::Role::kEmbedding;
  if (!quantization || (!embedding && !format::is_linear(module.role))) return nullptr;
  const bool stored_as_integers = checkpoint.find(module.name + ".weight_packed") != nullptr ||
                                  checkpoint.find(module.name + ".weight_scale") != nullptr;
  if (!stored_as_integers) return nullptr;
  const format::QuantScheme* scheme = quantization->scheme_for(module.name, embedding ? "Embedding" : "Linear");
  return scheme != nullptr && scheme->weights ? scheme : nullptr;
}

std::string StoredModel::describe() const {
  std::map<std::string, int64_t> parameters;  // by how they are stored
  for (const format::ModuleSpec& module : layout.modules()) {
    const format::QuantScheme* scheme = scheme_of(module);
    const auto* weight = checkpoint.find(module.weight_name());
    if (scheme == nullptr && weight == nullptr) continue;
    parameters[scheme ? eval::describe(*scheme) : std::string(format::to_string(weight->dtype))] +=
        format::element_count(module.shape).value_or(0);
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

}  // namespace autoglm::eval
