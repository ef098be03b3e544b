#pragma once
/// Energy meter: what the processor or the board draws, where the system tells.
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace autoglm {

/// Reads Linux's sysfs: the RAPL counters of every processor package (class/powercap, readable by root alone on most
/// systems), else the first energy or power sensor of class/hwmon that belongs to a board monitor
/// or the processor (ina*, scmi*, amd_energy). It counts the whole package or board, other
/// processes included. Not thread-safe.
class EnergyMeter {
 public:
  using Clock = std::chrono::steady_clock;

  /// Nothing where there is no sensor that may be read.
  static std::optional<EnergyMeter> find(const std::filesystem::path& sysfs = "/sys",
                                         Clock::time_point (*now)() = &Clock::now);

  const std::string& name() const { return name_; }  ///< "RAPL, 2 packages", "hwmon ina3221, power"

  /// Joules since `find`. Counters are exact if read before they wrap (RAPL: minutes); power is taken to have been the
  /// same since the last call, so call often.
  double joules();

 private:
  struct Counter {
    std::filesystem::path file;
    uint64_t range = 0;  ///< microjoules at which it starts again; 0: it does not
    uint64_t last = 0;
  };
  EnergyMeter() = default;
  bool find_rapl(const std::filesystem::path& sysfs);
  bool find_hwmon(const std::filesystem::path& sysfs);

  std::string name_;
  std::vector<Counter> counters_;
  std::filesystem::path power_;  ///< microwatts; "" with counters
  Clock::time_point (*now_)() = &Clock::now;
  Clock::time_point last_;
  double joules_ = 0;
};

}  // namespace autoglm
