#include "core/base/energy.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

namespace autoglm {
namespace {

namespace fs = std::filesystem;
EnergyMeter::Clock::time_point now;

/// A sysfs of files that the test writes.
class EnergyTest : public ::testing::Test {
 protected:
  EnergyTest() {
    std::string pattern = (fs::temp_directory_path() / "autoglm-sysfs-XXXXXX").string();
    root_ = mkdtemp(pattern.data());
  }
  ~EnergyTest() override { fs::remove_all(root_); }

  void put(const std::string& file, const std::string& text) const {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text << "\n";
  }
  std::optional<EnergyMeter> find() const {
    return EnergyMeter::find(root_, [] { return now; });
  }

  fs::path root_;
};

TEST_F(EnergyTest, NoSensorIsNoMeter) {
  EXPECT_FALSE(find());
  put("class/powercap/intel-rapl:0/name", "package-0");  // without a counter that may be read
  put("class/hwmon/hwmon0/temp1_input", "40000");
  EXPECT_FALSE(find());
}

TEST_F(EnergyTest, AddsUpPackagesAndFollowsThemAroundTheirRange) {
  const std::string zones = "class/powercap/intel-rapl:";
  for (const char* zone : {"0", "1"}) {
    put(zones + zone + "/name", std::string("package-") + zone);
    put(zones + zone + "/max_energy_range_uj", "10000000");
    put(zones + zone + "/energy_uj", "9000000");
  }
  put("class/powercap/intel-rapl-mmio:0/name", "package-0");  // the same package by another interface
  put("class/powercap/intel-rapl-mmio:0/energy_uj", "0");
  put(zones + "0:0/name", "core");
  put(zones + "0:0/energy_uj", "5");
  auto meter = find();
  ASSERT_TRUE(meter);
  EXPECT_EQ(meter->name(), "RAPL, 2 packages");
  EXPECT_DOUBLE_EQ(meter->joules(), 0);
  put(zones + "0/energy_uj", "9500000");
  EXPECT_DOUBLE_EQ(meter->joules(), 0.5);
  put(zones + "0/energy_uj", "500000");
  put(zones + "1/energy_uj", "9250000");
  EXPECT_DOUBLE_EQ(meter->joules(), 0.5 + 1 + 0.25);
}

TEST_F(EnergyTest, PowerIsIntegratedOverTime) {
  put("class/hwmon/hwmon0/name", "ina3221");
  put("class/hwmon/hwmon0/power1_input", "4000000");
  auto meter = find();
  ASSERT_TRUE(meter);
  EXPECT_EQ(meter->name(), "hwmon ina3221, power");
  now += std::chrono::milliseconds(500);
  EXPECT_DOUBLE_EQ(meter->joules(), 2);
  put("class/hwmon/hwmon0/power1_input", "1000000");
  now += std::chrono::seconds(1);
  EXPECT_DOUBLE_EQ(meter->joules(), 3);
}

TEST_F(EnergyTest, ABoardsCounterIsTakenAsItIs) {
  put("class/hwmon/hwmon0/name", "amdgpu");
  put("class/hwmon/hwmon0/power1_average", "1000000");
  EXPECT_FALSE(find());
  put("class/hwmon/hwmon0/name", "scmi_sensors");
  put("class/hwmon/hwmon0/energy1_input", "1000000");
  put("class/hwmon/hwmon0/energy2_input", "7000000");
  auto meter = find();
  ASSERT_TRUE(meter);
  put("class/hwmon/hwmon0/energy1_input", "3000000");
  put("class/hwmon/hwmon0/energy2_input", "9000000");
  EXPECT_DOUBLE_EQ(meter->joules(), 2);
}

// As the driver's documentation has it: counters of the cores, and then of the sockets.
TEST_F(EnergyTest, SocketsAreCountedAndTheirCoresAreNot) {
  put("class/hwmon/hwmon0/name", "amd_energy");
  const std::string labels[] = {"Ecore000", "Ecore001", "Esocket0", "Esocket1"};
  const auto count = [&](int i, const std::string& energy) {
    put("class/hwmon/hwmon0/energy" + std::to_string(i + 1) + "_input", energy);
  };
  for (int i = 0; i < 4; ++i) {
    put("class/hwmon/hwmon0/energy" + std::to_string(i + 1) + "_label", labels[i]);
    count(i, "1000000");
  }
  auto meter = find();
  ASSERT_TRUE(meter);
  for (int i = 0; i < 4; ++i) count(i, std::to_string(1000000 * (i + 2)));
  EXPECT_DOUBLE_EQ(meter->joules(), 3 + 4);
}

}  // namespace
}  // namespace autoglm
