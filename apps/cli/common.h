#pragma once
/// The subcommands of autoglm, each in the file of its name.
#include "apps/common/command.h"

namespace autoglm::cli {

Command add_compress(CLI::App& root);
Command add_eval(CLI::App& root);
Command add_inspect(CLI::App& root);
Command add_generate(CLI::App& root);
Command add_calibrate(CLI::App& root);
Command add_export(CLI::App& root);
Command add_version(CLI::App& root);

}  // namespace autoglm::cli
