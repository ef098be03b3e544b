#include "core/base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>
#include <mutex>

namespace autoglm {
namespace {

struct State {
  std::mutex mutex;
  std::shared_ptr<spdlog::logger> logger;  // spdlog's default one would write to stdout
  std::vector<std::string> warnings;
};

State& state() {
  static State shared;
  return shared;
}

std::shared_ptr<spdlog::logger> make_logger(Verbosity verbosity) {
  auto logger = std::make_shared<spdlog::logger>("autoglm", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_pattern("%^%l%$: %v");
  logger->set_level(verbosity == Verbosity::kQuiet ? spdlog::level::err : spdlog::level::info);
  return logger;
}

}  // namespace

void setup_logging(Verbosity verbosity) {
  auto logger = make_logger(verbosity);
  const std::lock_guard lock(state().mutex);
  state().logger = std::move(logger);
}

void warn(const std::string& message) {
  std::shared_ptr<spdlog::logger> logger;
  {
    const std::lock_guard lock(state().mutex);
    auto& list = state().warnings;
    if (std::find(list.begin(), list.end(), message) != list.end()) return;
    list.push_back(message);
    if (!state().logger) state().logger = make_logger(Verbosity::kNormal);
    logger = state().logger;
  }
  logger->warn("{}", message);
}

std::vector<std::string> warnings() {
  const std::lock_guard lock(state().mutex);
  return state().warnings;
}

}  // namespace autoglm
