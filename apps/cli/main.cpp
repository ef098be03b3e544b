/// autoglm: compresses GLM-family models, measures what was lost, and shows what is inside. One file per subcommand.
#include "apps/cli/common.h"

int main(int argc, char** argv) {
  CLI::App root("Compresses GLM-family language models and proves on the written file what was lost.", "autoglm");
  root.footer("Example:\n  autoglm compress models/glm-phone-demo --quantization int4 -o demo-int4");
  const auto add_commands = [](CLI::App& app) -> std::vector<autoglm::cli::Command> {
    using namespace autoglm::cli;
    return {add_compress(app), add_calibrate(app), add_eval(app),   add_inspect(app),
            add_generate(app), add_export(app),    add_version(app)};
  };
  return autoglm::cli::run_program(root, add_commands, argc, argv);
}
