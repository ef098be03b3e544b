#pragma once
/// What the programs' subcommands share: the shape of a command, output flags, errors to exit codes.
#include <autoglm/status.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace autoglm::cli {

/// --json and --quiet of one subcommand.
struct Output {
  bool json = false;
  bool quiet = false;
};

/// One subcommand: its options, and what runs once they are parsed (returns the exit code).
struct Command {
  CLI::App* app = nullptr;
  std::shared_ptr<Output> output;
  std::function<int()> run;
  std::vector<Command> commands;  ///< of a group, in place of `run`
};

/// Adds a name under which commands stand, with a worked example under its help.
Command add_group(CLI::App& parent, const std::string& name, const std::string& description,
                  const std::string& example);

/// Adds a subcommand with the output flags and a worked example under its help.
Command add_command(CLI::App& parent, const std::string& name, const std::string& description,
                    const std::string& example);

/// Option values that CLI11 does not know, and a check that it words badly. That numbers are numbers and texts are not
/// empty needs none: run_program sees to it for every option.
CLI::Validator above_zero();
CLI::Option* add_bytes(CLI::App& app, const std::string& name, int64_t& bytes, const std::string& description);
CLI::Option* add_share(CLI::App& app, const std::string& name, double& share, const std::string& description);

/// "PROGRAM: bad input: ..." on stderr; the status's exit code.
int fail(const Status& status);

/// Prints JSON or the summary to stdout, as the flags ask.
void print(const Output& output, const std::string& json, const std::string& summary);

/// The whole of main(): parses, sets up logging and signals, runs the command that was named. Returns the exit code.
/// `add_commands` adds the subcommands to `root`.
int run_program(CLI::App& root, const std::function<std::vector<Command>(CLI::App&)>& add_commands, int argc,
                char** argv);

}  // namespace autoglm::cli
