#include "core/base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <algorithm>
#include <mutex>

namespace autoglm {
namespace {

std::mutex& warnings_mutex() {
  static std::mutex mutex;
  return mutex;
}

std::vector<std::string>& warnings_list() {
  static std::vector<std::string> list;
  return list;
}

}  // namespace

void setup_logging(Verbosity verbosity) {
  auto logger = std::make_shared<spdlog::logger>("autoglm", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_pattern("%^%l%$: %v");
  logger->set_level(verbosity == Verbosity::kQuiet     ? spdlog::level::err
                    : verbosity == Verbosity::kVerbose ? spdlog::level::debug
                                                       : spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

void warn(const std::string& message) {
  {
    const std::lock_guard lock(warnings_mutex());
    auto& list = warnings_list();
    if (std::find(list.begin(), list.end(), message) != list.end()) return;
    list.push_back(message);
  }
  spdlog::warn("{}", message);
}

std::vector<std::string> warnings() {
  const std::lock_guard lock(warnings_mutex());
  return warnings_list();
}

}  // namespace autoglm
