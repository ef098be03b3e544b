#include "apps/cli/common.h"

#include <fmt/format.h>

#include <cstdio>

#include "core/base/memory.h"
#include "core/base/suggest.h"

namespace autoglm::cli {
namespace {

Status parse_share(const std::string& text, double& share) {
  const bool percent = !text.empty() && text.back() == '%';
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  const bool whole = end != text.c_str() && std::string(end) == (percent ? "%" : "");
  if (!whole || !(number >= 0) || number > (percent ? 100 : 1)) {
    return invalid_argument(fmt::format("'{}' is not a share; write for example 3% or 0.03", text));
  }
  share = percent ? number / 100 : number;
  return ok_status();
}

}  // namespace

Command add_command(CLI::App& root, const std::string& name, const std::string& description, const std::string& example) {
  Command command;
  command.app = root.add_subcommand(name, description);
  command.app->footer("Example:\n  " + example);
  command.app->allow_extras();  // so that check_extras can name the option that was meant
  command.output = std::make_shared<Output>();
  command.app->add_flag("--json", command.output->json, "print the result as JSON");
  command.app->add_flag("--quiet", command.output->quiet, "print errors and the result alone, no progress");
  command.app->add_flag("--verbose", command.output->verbose, "say more about what is done");
  return command;
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
        if (const Status status = parse_share(text, share); !status.ok()) throw CLI::ValidationError(name, status.message());
      },
      description);
}

int fail(const Status& status) {
  std::fprintf(stderr, "autoglm: %s: %s\n", std::string(to_string(status.code())).c_str(), status.message().c_str());
  return static_cast<int>(status.code());
}

void print(const Output& output, const std::string& json, const std::string& summary) {
  const std::string& text = output.json ? json : summary;
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (text.empty() || text.back() != '\n') std::fputc('\n', stdout);
}

Status check_extras(const CLI::App& app) {
  const std::vector<std::string> extras = app.remaining();
  if (extras.empty()) return ok_status();
  const std::string word = extras.front().substr(0, extras.front().find('='));
  if (word.rfind('-', 0) != 0) {
    return invalid_argument(fmt::format("unexpected argument '{}' (autoglm {} --help)", word, app.get_name()));
  }
  std::vector<std::string> known;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  }
  const std::string guess = nearest(word, known);
  return invalid_argument(fmt::format("unknown option '{}'{} (autoglm {} --help lists them)", word,
                                      guess.empty() ? "" : fmt::format("; did you mean '{}'?", guess), app.get_name()));
}

}  // namespace autoglm::cli
