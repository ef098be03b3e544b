#include "core/base/energy.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <system_error>

namespace autoglm {
namespace {

namespace fs = std::filesystem;

/// The number or word that a file of sysfs holds.
template <typename Value>
std::optional<Value> read(const fs::path& file) {
  std::ifstream in(file);
  Value value;
  return in >> value ? std::optional(std::move(value)) : std::nullopt;
}

std::vector<fs::path> sorted_entries(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    entries.push_back(at->path());
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

}  // namespace

bool EnergyMeter::find_rapl(const fs::path& sysfs) {
  for (const fs::path& zone : sorted_entries(sysfs / "class/powercap")) {
    // Zones of a package (cores, memory) are counted in it; "psys" counts the packages again, and so does a second
    // interface to the same ones, intel-rapl-mmio.
    if (zone.filename().string().rfind("intel-rapl:", 0) != 0) continue;
    if (read<std::string>(zone / "name").value_or("").rfind("package-", 0) != 0) continue;
    const auto energy = read<uint64_t>(zone / "energy_uj");
    if (!energy) continue;
    counters_.push_back({zone / "energy_uj", read<uint64_t>(zone / "max_energy_range_uj").value_or(0), *energy});
  }
  name_ = fmt::format("RAPL, {} package{}", counters_.size(), counters_.size() == 1 ? "" : "s");
  return !counters_.empty();
}

bool EnergyMeter::find_hwmon(const fs::path& sysfs) {
  for (const fs::path& device : sorted_entries(sysfs / "class/hwmon")) {
    // Monitors of a board or a processor; a graphics card's or a battery's sensor says nothing of what runs here.
    const std::string device_name = read<std::string>(device / "name").value_or("");
    const auto is = [&](const char* prefix) { return device_name.rfind(prefix, 0) == 0; };
    if (!is("ina") && !is("scmi") && !is("amd_energy")) continue;
    for (int i = 1;; ++i) {
      const fs::path file = device / fmt::format("energy{}_input", i);
      const auto energy = read<uint64_t>(file);
      if (!energy) break;
      // amd_energy has a counter for every core, "Ecore000" and on, and then one for every socket, "Esocket0" and on.
      const std::string label = read<std::string>(device / fmt::format("energy{}_label", i)).value_or("");
      if (label.rfind("Ecore", 0) != 0) counters_.push_back({file, 0, *energy});
      if (label.rfind("Esocket", 0) != 0 && !counters_.empty()) break;  // others count what the first has counted
    }
    if (!counters_.empty()) {
      name_ = fmt::format("hwmon {}, energy", device_name);
      return true;
    }
    for (const char* file : {"power1_average", "power1_input"}) {
      if (!read<uint64_t>(device / file)) continue;
      power_ = device / file;
      name_ = fmt::format("hwmon {}, power", device_name);
      return true;
    }
  }
  return false;
}

std::optional<EnergyMeter> EnergyMeter::find(const fs::path& sysfs, Clock::time_point (*now)()) {
  EnergyMeter meter;
  meter.now_ = now;
  meter.last_ = now();
  if (!meter.find_rapl(sysfs) && !meter.find_hwmon(sysfs)) return std::nullopt;
  return meter;
}

double EnergyMeter::joules() {
  for (Counter& counter : counters_) {
    const uint64_t now = read<uint64_t>(counter.file).value_or(counter.last);
    uint64_t used = now - counter.last;
    if (now < counter.last) used = counter.range > counter.last ? counter.range - counter.last + now : 0;
    joules_ += 1e-6 * static_cast<double>(used);
    counter.last = now;
  }
  const Clock::time_point now = now_();
  if (!power_.empty()) {
    const auto watts = 1e-6 * static_cast<double>(read<uint64_t>(power_).value_or(0));
    joules_ += watts * std::chrono::duration<double>(now - last_).count();
  }
  last_ = now;
  return joules_;
}

}  // namespace autoglm
