#pragma once
/// Logging to stderr through spdlog. Libraries log sparingly: facts a person would want while waiting, and warnings.
/// Results go to stdout and are printed by the programs alone.
#include <spdlog/spdlog.h>

#include <string>
#include <vector>

namespace autoglm {

enum class Verbosity { kQuiet, kNormal, kVerbose };

/// Sets up the process's logger: `warning: …` lines without timestamps, at the given verbosity (quiet: errors only).
void setup_logging(Verbosity verbosity);

/// Logs a warning once and remembers it, so that a report can list what was said. Thread-safe.
void warn(const std::string& message);

/// Every distinct message given to `warn` since the start, in order. Thread-safe.
std::vector<std::string> warnings();

}  // namespace autoglm
