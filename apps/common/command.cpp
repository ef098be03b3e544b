#include "apps/common/command.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <optional>
#include <system_error>
#include <utility>

#include "core/base/cancel.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/base/share.h"
#include "core/base/suggest.h"

namespace autoglm::cli {
namespace {

/// Of the messages; run_program sets it before any thread starts.
std::string& program_name() {
  static std::string name = "autoglm";
  return name;
}

CLI::Validator value_check(const std::function<bool(const std::string&)>& is_right, const std::string& wanted) {
  return {[=](std::string& text) {
            return text.empty()     ? "is empty; give a value or leave the option out"
                   : is_right(text) ? std::string()
                                    : fmt::format("'{}' is {}", text, wanted);
          },
          ""};
}

bool is_whole(const std::string& text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

std::optional<double> number(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

/// Gives every option of `app` and of its subcommands the check of its type: no option takes nothing, or less than
/// nothing of what is counted.
void check_types(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    const std::string type = option->get_type_name();
    if (type == "INT" || type == "UINT") option->check(value_check(is_whole, "no whole number of at least 0"));
    if (type == "FLOAT")
      option->check(value_check([](const auto& text) { return number(text).has_value(); }, "no number"));
    if (type == "TEXT") option->check(value_check([](const auto&) { return true; }, ""));
  }
  for (CLI::App* below : app.get_subcommands({})) check_types(*below);
}

/// A line for options that no one knows, with the nearest known one; OK when there is none.
Status check_extras(const CLI::App& app) {
  const std::vector<std::string> extras = app.remaining();
  if (extras.empty()) return ok_status();
  const std::string word = extras.front().substr(0, extras.front().find('='));
  std::string name = app.get_name();
  for (const CLI::App* above = app.get_parent(); above->get_parent() != nullptr; above = above->get_parent()) {
    name.insert(0, above->get_name() + " ");
  }
  const std::string help = fmt::format("{} {} --help", program_name(), name);
  if (word.rfind('-', 0) != 0) return invalid_argument(fmt::format("unexpected argument '{}' ({})", word, help));
  std::vector<std::string> known;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  }
  const std::string guess = nearest(word, known);
  return invalid_argument(fmt::format("unknown option '{}'{} ({} lists them)", word,
                                      guess.empty() ? "" : fmt::format("; did you mean '{}'?", guess), help));
}

int unknown_command(const std::vector<Command>& commands, const std::string& word) {
  std::vector<std::string> known;
  for (const Command& command : commands) known.push_back(command.app->get_name());
  return fail(invalid_argument(unknown_word("command", word, known)));
}

/// Runs the one of `commands`, all of them below `parent`, that was parsed.
int run_parsed(const CLI::App& parent, const std::vector<Command>& commands) {
  for (const Command& command : commands) {
    if (!command.app->parsed()) continue;
    if (!command.commands.empty()) return run_parsed(*command.app, command.commands);
    if (const auto status = check_extras(*command.app); !status.ok()) return fail(status);
    setup_logging(command.output->quiet ? Verbosity::kQuiet : Verbosity::kNormal);
    Progress::set_enabled(!command.output->quiet);
    return command.run();
  }
  if (!parent.remaining().empty()) return unknown_command(commands, parent.remaining().front());
  const CLI::App* above = parent.get_parent();
  std::fputs(parent.help(above != nullptr ? above->get_name() : "").c_str(), stdout);
  return 0;
}

int run(CLI::App& root, const std::vector<Command>& commands, std::vector<std::string> words) {
  check_types(root);
  if (!words.empty() && words.front() == "--version") words.front() = "version";
  if (!words.empty() && words.front() == "help") {  // help COMMAND, as COMMAND --help
    words.erase(words.begin());
    words.emplace_back("--help");
  }
  std::reverse(words.begin(), words.end());
  try {
    root.parse(std::move(words));
  } catch (const CLI::Success& help) {
    return root.exit(help);
  } catch (const CLI::ParseError& error) {
    return fail(invalid_argument(error.what()));
  }
  return run_parsed(root, commands);
}

}  // namespace

Command add_group(CLI::App& parent, const std::string& name, const std::string& description,
                  const std::string& example) {
  Command command;
  command.app = parent.add_subcommand(name, description);
  command.app->footer("Example:\n  " + example);
  command.app->allow_extras();  // so that the option or command that was meant can be named
  return command;
}

Command add_command(CLI::App& parent, const std::string& name, const std::string& description,
                    const std::string& example) {
  Command command = add_group(parent, name, description, example);
  command.output = std::make_shared<Output>();
  command.app->add_flag("--json", command.output->json, "print the result as JSON");
  command.app->add_flag("--quiet", command.output->quiet, "print errors and the result alone, no progress");
  return command;
}

CLI::Validator above_zero() {
  return value_check([](const auto& text) { return number(text).value_or(0) > 0; }, "no number above 0");
}

CLI::Option* add_bytes(CLI::App& app, const std::string& name, int64_t& bytes, const std::string& description) {
  return app.add_option_function<std::string>(
      name,
      [&bytes, name](const std::string& text) {
        const auto parsed = parse_bytes(text);
        if (!parsed.ok()) throw CLI::ValidationError(name, parsed.status().message());
        bytes = *parsed;
      },
      description);
}

CLI::Option* add_share(CLI::App& app, const std::string& name, double& share, const std::string& description) {
  return app.add_option_function<std::string>(
      name,
      [&share, name](const std::string& text) {
        const auto parsed = parse_share(text);
        if (!parsed.ok()) throw CLI::ValidationError(name, parsed.status().message());
        share = *parsed;
      },
      description);
}

int fail(const Status& status) {
  if (status.code() == StatusCode::kCancelled) {
    std::fprintf(stderr, "%s: %s\n", program_name().c_str(), status.message().c_str());
    return static_cast<int>(status.code());
  }
  std::fprintf(stderr, "%s: %s: %s\n", program_name().c_str(), std::string(to_string(status.code())).c_str(),
               status.message().c_str());
  return static_cast<int>(status.code());
}

void print(const Output& output, const std::string& json, const std::string& summary) {
  const std::string& text = output.json ? json : summary;
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (text.empty() || text.back() != '\n') std::fputc('\n', stdout);
}

int run_program(CLI::App& root, const std::function<std::vector<Command>(CLI::App&)>& add_commands, int argc,
                char** argv) {
  install_signal_handlers();
  program_name() = root.get_name();
  try {
    root.require_subcommand(0, 1);
    root.allow_extras();
    const int code = run(root, add_commands(root), {argv + 1, argv + argc});
    // What could not be printed (a full disk, a closed pipe) was not delivered.
    const bool delivered = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
    return delivered || code != 0 ? code
                                  : fail(resource_exhausted("the result could not be written to standard output"));
  } catch (const std::exception& error) {
    return fail(internal_error(error.what()));
  }
}

}  // namespace autoglm::cli
