#include "core/base/memory.h"

#include <fmt/format.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <charconv>
#include <cmath>
#include <fstream>
#include <string>

namespace autoglm {
namespace {

int64_t proc_status_kib(std::string_view key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(key, 0) == 0) return std::strtoll(line.c_str() + key.size(), nullptr, 10) * 1024;
  }
  return 0;
}

}  // namespace

int64_t current_rss_bytes() { return proc_status_kib("VmRSS:"); }
int64_t peak_rss_bytes() { return proc_status_kib("VmHWM:"); }

void return_freed_memory() {
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

std::string format_bytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (std::abs(value) >= 999.5 && unit < 5) value /= 1000, ++unit;
  if (unit == 0) return fmt::format("{} B", bytes);
  const int decimals = std::abs(value) < 9.995 ? 2 : std::abs(value) < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f} {}", value, decimals, kUnits[unit]);
}

Result<int64_t> parse_bytes(std::string_view text) {
  const auto refuse = [&] {
    return invalid_argument(fmt::format("'{}' is not a size; write for example 4G, 512MB or 1.5GiB", text));
  };
  double number = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || number < 0 || !std::isfinite(number)) return refuse();
  std::string unit(rest, text.data() + text.size());
  if (!unit.empty() && unit.front() == ' ') unit.erase(0, 1);
  if (!unit.empty() && (unit.back() == 'B' || unit.back() == 'b')) unit.pop_back();
  double factor = 1;
  if (!unit.empty()) {
    const bool binary = unit.size() == 2 && unit[1] == 'i';
    if (unit.size() > 1 && !binary) return refuse();
    const size_t power = std::string_view("KMGT").find(static_cast<char>(std::toupper(unit[0])));
    if (power == std::string_view::npos) return refuse();
    factor = std::pow(binary ? 1024.0 : 1000.0, static_cast<double>(power) + 1);
  }
  const double bytes = number * factor;
  if (bytes >= 9.2e18) return refuse();
  return static_cast<int64_t>(bytes);
}

}  // namespace autoglm
