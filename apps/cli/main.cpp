/// autoglm: compresses GLM-family models, measures what was lost, and shows what is inside. One file per subcommand.
#include <cstdio>
#include <exception>

#include "apps/cli/common.h"
#include "core/base/cancel.h"
#include "core/base/log.h"
#include "core/base/progress.h"
#include "core/base/suggest.h"

namespace {

using autoglm::cli::Command;

int unknown_command(const std::vector<Command>& commands, const std::string& word) {
  std::vector<std::string> known;
  for (const Command& command : commands) known.push_back(command.app->get_name());
  return autoglm::cli::fail(autoglm::invalid_argument(autoglm::unknown_word("command", word, known)));
}

int run(int argc, char** argv) {
  CLI::App root("Compresses GLM-family language models and proves on the written file what was lost.", "autoglm");
  root.footer("Example:\n  autoglm compress models/glm-phone-demo --quantization int4 -o demo-int4");
  root.require_subcommand(0, 1);
  root.allow_extras();
  const std::vector<Command> commands = {
      autoglm::cli::add_compress(root), autoglm::cli::add_eval(root),    autoglm::cli::add_inspect(root),
      autoglm::cli::add_generate(root), autoglm::cli::add_version(root),
  };
  try {
    root.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return root.exit(help);
  } catch (const CLI::ParseError& error) {
    return autoglm::cli::fail(autoglm::invalid_argument(error.what()));
  }
  for (const Command& command : commands) {
    if (!command.app->parsed()) continue;
    if (const auto status = autoglm::cli::check_extras(*command.app); !status.ok()) return autoglm::cli::fail(status);
    using autoglm::Verbosity;
    autoglm::setup_logging(command.output->quiet     ? Verbosity::kQuiet
                           : command.output->verbose ? Verbosity::kVerbose
                                                     : Verbosity::kNormal);
    autoglm::Progress::set_enabled(!command.output->quiet);
    return command.run();
  }
  if (!root.remaining().empty()) return unknown_command(commands, root.remaining().front());
  std::fputs(root.help().c_str(), stdout);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  autoglm::install_signal_handlers();
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    return autoglm::cli::fail(autoglm::internal_error(error.what()));
  }
}
