/// autoglm-edge: runs compressed models on a CPU, without LibTorch. One file per subcommand.
#include "apps/edge/common.h"

int main(int argc, char** argv) {
  CLI::App root("Runs language models, as they are or compressed, on a CPU.", "autoglm-edge");
  root.footer("Example:\n  autoglm-edge generate models/glm-phone-demo --prompt \"App: Clock\"");
  const auto add_commands = [](CLI::App& app) -> std::vector<autoglm::cli::Command> {
    using namespace autoglm::edge;
    return {add_generate(app), add_chat(app), add_bench(app), add_pack(app), add_inspect(app), add_version(app)};
  };
  return autoglm::cli::run_program(root, add_commands, argc, argv);
}
