#pragma once
/// Logging to stderr. Libraries log warnings alone.
/// Results go to stdout and are printed by the programs alone.
#include <string>
#include <vector>

namespace autoglm {

enum class Verbosity { kQuiet, kNormal };

/// Sets up the logger: `warning: …` lines without timestamps; kQuiet: none. Without this call it is kNormal.
/// spdlog's default logger, which belongs to the program, is not touched. Thread-safe.
void setup_logging(Verbosity verbosity);

/// Logs a warning once and remembers it, so that a report can list what was said. Thread-safe.
void warn(const std::string& message);

/// Every distinct message given to `warn` since the start, in order. Thread-safe.
std::vector<std::string> warnings();

}  // namespace autoglm
