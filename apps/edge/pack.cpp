#include <fmt/format.h>

#include "apps/edge/common.h"
#include "core/base/cancel.h"
#include "core/base/memory.h"
#include "core/format/display.h"
#include "runtime/engine/packed_model.h"

namespace autoglm::edge {
namespace {

struct Options {
  std::string model, output;
  engine::PackOptions pack;
};

Status run(Options options, const cli::Output& output) {
  if (options.model.empty()) return invalid_argument("name a model folder");
  const Stopwatch watch;
  options.pack.cancel = &CancelToken::global();
  AUTOGLM_ASSIGN_OR_RETURN(const engine::Packed packed, engine::pack(options.model, options.output, options.pack));
  const nlohmann::ordered_json json = {{"model", options.model},
                                       {"output", options.output},
                                       {"source_bytes", packed.source_bytes},
                                       {"bytes", packed.bytes},
                                       {"seconds", watch.seconds()}};
  cli::print(
      output, dump(json),
      fmt::format("{}: {} of weights, packed from {} in {:.1f} s, checksums hold", format::display_path(options.output),
                  format_bytes(packed.bytes), format_bytes(packed.source_bytes), watch.seconds()));
  return ok_status();
}

}  // namespace

Command add_pack(CLI::App& root) {
  Command command =
      cli::add_command(root, "pack", "Write a model as it lies in memory: it loads at once, processes share its pages",
                       "autoglm-edge pack models/glm-phone-demo -o packed");
  auto options = std::make_shared<Options>();
  command.app->add_option("model,--model-path", options->model, "model folder");
  command.app->add_option("-o,--output", options->output, "folder to write")->required();
  command.app->add_flag("--overwrite", options->pack.overwrite, "replace the output folder if it exists");
  command.app->add_option("--threads", options->pack.threads, "0: all cores")->capture_default_str();
  command.run = [options, output = command.output] {
    const Status status = run(*options, *output);
    return status.ok() ? 0 : cli::fail(status);
  };
  return command;
}

}  // namespace autoglm::edge
