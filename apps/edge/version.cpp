#include "apps/edge/common.h"
#include "runtime/kernels/kernels.h"

namespace autoglm::edge {

Command add_version(CLI::App& root) {
  Command command = cli::add_command(root, "version", "Print the version and the instruction sets that can be used",
                                     "autoglm-edge version --json");
  command.run = [output = command.output] {
    const auto chosen = kernels::select();
    if (!chosen.ok()) return cli::fail(chosen.status());
    nlohmann::ordered_json json = {{"autoglm-edge", AUTOGLM_VERSION}, {"kernels", (*chosen)->name}};
    for (const kernels::Kernels* table : kernels::available()) json["available"].push_back(table->name);
    cli::print(*output, dump(json), std::string("autoglm-edge ") + AUTOGLM_VERSION + " (" + (*chosen)->name + ")");
    return 0;
  };
  return command;
}

}  // namespace autoglm::edge
