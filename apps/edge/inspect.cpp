#include <fmt/format.h>

#include <map>

#include "apps/edge/common.h"
#include "core/base/cancel.h"
#include "core/base/memory.h"
#include "core/format/display.h"
#include "runtime/engine/memory_plan.h"
#include "runtime/engine/packed_model.h"
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

/// Every byte of a packed folder against its checksums.
Status verify(const ModelOptions& options) {
  AUTOGLM_ASSIGN_OR_RETURN(const auto config, format::ModelConfig::load(options.model));
  if (!engine::is_packed(config)) {
    return invalid_argument(format::display_path(options.model) +
                            ": has no checksums, only what `pack` wrote has them");
  }
  AUTOGLM_ASSIGN_OR_RETURN(const int threads, engine::thread_count(options.engine.threads));
  AUTOGLM_ASSIGN_OR_RETURN(const auto packed, engine::PackedModel::open(options.model));
  kernels::ThreadPool pool(threads);
  return packed.verify(pool, &CancelToken::global());
}

Status run(ModelOptions options, bool verified, const cli::Output& output) {
  AUTOGLM_RETURN_IF_ERROR(resolve(options));
  if (options.engine.threads == 0) options.engine.threads = 1;
  if (verified) AUTOGLM_RETURN_IF_ERROR(verify(options));
  AUTOGLM_ASSIGN_OR_RETURN(const auto weights, engine::Weights::open(options.model));
  AUTOGLM_ASSIGN_OR_RETURN(const engine::MemoryPlan plan, engine::plan_memory(*weights, options.engine));
  AUTOGLM_ASSIGN_OR_RETURN(const kernels::Kernels* kernels, kernels::select());
  std::map<std::string, Kind> kinds;
  AUTOGLM_ASSIGN_OR_RETURN(const std::vector<engine::Weights::Matrix> matrices, weights->matrices());
  for (const engine::Weights::Matrix& matrix : matrices) {
    Kind& kind = kinds[name_of(matrix.shape)];
    ++kind.matrices;
    kind.parameters += matrix.shape.rows * matrix.shape.cols;
    kind.bytes += matrix.bytes.packed + matrix.bytes.mapped;
  }
  const format::ModelConfig& config = weights->config();
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
  if (verified) json["verified"] = true;
  summary += fmt::format("memory: weights {} packed + {} mapped, activations {}, cache {} for {} tokens",
                         format_bytes(plan.weights.packed), format_bytes(plan.weights.mapped),
                         format_bytes(plan.activations), format_bytes(plan.cache), plan.cache_tokens);
  if (verified) summary += "\nevery byte of the weights agrees with its checksum";
  cli::print(output, dump(json), summary);
  return ok_status();
}

}  // namespace

Command add_inspect(CLI::App& root) {
  Command command = cli::add_command(root, "inspect", "Show how a model is stored and what running it will occupy",
                                     "autoglm-edge inspect models/glm-phone-demo --kv int8");
  struct Options : ModelOptions {
    bool verify = false;
  };
  auto options = std::make_shared<Options>();
  add_model_options(*command.app, *options);
  command.app->add_flag("--verify", options->verify, "read a packed model whole and compare its checksums");
  command.run = [options, output = command.output] {
    const Status status = run(*options, options->verify, *output);
    return status.ok() ? 0 : cli::fail(status);
  };
  return command;
}

}  // namespace autoglm::edge
