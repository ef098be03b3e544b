#include <autoglm/inspect.h>

#include "apps/cli/common.h"

namespace autoglm::cli {

Command add_inspect(CLI::App& root) {
  Command command = add_command(root, "inspect", "Show a checkpoint's layers, bytes, parameters and quantization",
                                "autoglm inspect models/glm-phone-demo");
  auto model = std::make_shared<std::string>();
  auto all = std::make_shared<bool>(false);
  command.app->add_option("model,--model-path", *model,
                          "checkpoint folder, or a Hugging Face id (org/name, org/name@revision)");
  command.app->add_flag("--tensors", *all, "list every tensor");
  command.run = [model, all, output = command.output] {
    const auto outcome = inspect(*model, *all);
    if (!outcome.ok()) return fail(outcome.status());
    print(*output, outcome->json, outcome->summary);
    return 0;
  };
  return command;
}

}  // namespace autoglm::cli
