#include <fmt/format.h>

#include <map>

#include "apps/edge/common.h"
#include "core/base/memory.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/kernels/kernels.h"

namespace autoglm::edge {
namespace {

/// How the matrices of a model are stored: "int4 group 32" -> how many, and their bytes in memory.
struct Kind {
  int64_t matrices = 0, parameters = 0, bytes = 0;
};

std::string name_of(const kernels::PackedShape& shape) {
  switch (shape.type) {
    case kernels::WeightType::kF32: return "fp32";
    case kernels::WeightType::kF16: return "fp16";
    case kernels::WeightType::kBF16: return "bf16";
    case kernels::WeightType::kQuantized: break;
  }
  const std::string group = shape.group_cols == shape.cols ? "" : fmt::format(" group {}", shape.group_cols);
  return fmt::format("int{}{}{}", shape.bits, group, shape.symmetric ? "" : " asymmetric");
}

Status run(ModelOptions options, const cli::Output& output) {
  AUTOGLM_RETURN_IF_ERROR(resolve(options));
  if (options.engine.threads == 0) options.engine.threads = 1;
  AUTOGLM_ASSIGN_OR_RETURN(const auto reader, engine::WeightReader::open(options.model));
  AUTOGLM_ASSIGN_OR_RETURN(const engine::MemoryPlan plan, engine::plan_memory(reader, options.engine));
  AUTOGLM_ASSIGN_OR_RETURN(const kernels::Kernels* kernels, kernels::select());
  std::map<std::string, Kind> kinds;
  for (const format::ModuleSpec& module : reader.layout().modules()) {
    if (module.shape.size() != 2) continue;
    AUTOGLM_ASSIGN_OR_RETURN(const kernels::PackedShape shape, reader.packed_shape(module));
    AUTOGLM_ASSIGN_OR_RETURN(const engine::WeightReader::Bytes bytes, reader.predict(module));
    Kind& kind = kinds[name_of(shape)];
    ++kind.matrices;
    kind.parameters += shape.rows * shape.cols;
    kind.bytes += bytes.packed + bytes.mapped;
  }
  const format::ModelConfig& config = reader.config();
  nlohmann::ordered_json json = {{"model", options.model},
                                 {"family", to_string(config.family)},
                                 {"layers", config.num_hidden_layers},
                                 {"hidden_size", config.hidden_size},
                                 {"vocab_size", config.vocab_size},
                                 {"context", options.engine.max_context},
                                 {"kernels", kernels->name}};
  std::string summary = fmt::format("{}: {}, {} layers of {}, vocabulary {}, context {}, kernels {}\n", options.model,
                                    to_string(config.family), config.num_hidden_layers, config.hidden_size,
                                    config.vocab_size, options.engine.max_context, kernels->name);
  for (const auto& [name, kind] : kinds) {
    json["matrices"].push_back(
        {{"kind", name}, {"matrices", kind.matrices}, {"parameters", kind.parameters}, {"bytes", kind.bytes}});
    summary += fmt::format("  {:<24} {:>5} matrices {:>14} parameters {:>9}\n", name, kind.matrices, kind.parameters,
                           format_bytes(kind.bytes));
  }
  json["memory"] = {{"packed_weights", plan.weights.packed},
                    {"mapped_weights", plan.weights.mapped},
                    {"activations", plan.activations},
                    {"cache", plan.cache},
                    {"cache_tokens", plan.cache_tokens}};
  summary += fmt::format("memory: weights {} packed + {} mapped, activations {}, cache {} for {} tokens",
                         format_bytes(plan.weights.packed), format_bytes(plan.weights.mapped),
                         format_bytes(plan.activations), format_bytes(plan.cache), plan.cache_tokens);
  cli::print(output, dump(json), summary);
  return ok_status();
}

}  // namespace

Command add_inspect(CLI::App& root) {
  Command command = cli::add_command(root, "inspect", "Show how a model is stored and what running it will occupy",
                                     "autoglm-edge inspect models/glm-phone-demo --kv int8");
  auto options = std::make_shared<ModelOptions>();
  add_model_options(*command.app, *options);
  command.run = [options, output = command.output] {
    const Status status = run(*options, *output);
    return status.ok() ? 0 : cli::fail(status);
  };
  return command;
}

}  // namespace autoglm::edge
