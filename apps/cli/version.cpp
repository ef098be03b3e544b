#include <autoglm/version.h>

#include <nlohmann/json.hpp>

#include "apps/cli/common.h"

namespace autoglm::cli {

Command add_version(CLI::App& root) {
  Command command = add_command(root, "version", "Print the version", "autoglm version --json");
  command.run = [output = command.output] {
    const nlohmann::ordered_json json = {{"autoglm", version()}, {"torch", torch_version()}};
    print(*output, json.dump(2), "autoglm " + version() + " (LibTorch " + torch_version() + ")");
    return 0;
  };
  return command;
}

}  // namespace autoglm::cli
