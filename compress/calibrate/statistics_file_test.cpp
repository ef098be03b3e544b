#include "compress/calibrate/statistics_file.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <numeric>

#include "core/format/safetensors.h"
#include "core/format/testing.h"

namespace autoglm::calibrate {
namespace {

using StatisticsFileTest = format::FolderTest;

std::vector<float> read(const format::SafetensorsFile& file, const std::string& name) {
  const format::TensorInfo* info = file.find(name);
  if (info == nullptr) return {};
  std::vector<float> out(static_cast<size_t>(info->nbytes / format::size_of(info->dtype)));
  format::to_float(info->dtype, file.bytes(*info), out);
  return out;
}

TEST_F(StatisticsFileTest, HoldsWhatWasSeen) {
  at::manual_seed(1);
  const at::Tensor x = at::randn({300, 6}) * 2 + 1;
  InputSummary summary;
  summary.add(x);
  StatisticsFile statistics;
  EXPECT_TRUE(statistics.empty());
  statistics.add("layer.0.q", summary, false);
  statistics.add("layer.0.experts.1.gate", summary, true);
  statistics.add("layer.0.unseen", InputSummary(), false);
  ASSERT_TRUE(statistics.write(folder_).ok());
  EXPECT_FALSE(statistics.write(folder_).ok()) << "an existing file is not replaced";

  const auto file = format::SafetensorsFile::open(folder_ / StatisticsFile::kFile).value();
  EXPECT_EQ(file.tensors().size(), 4U);
  const std::vector<float> tensor = read(file, "layer.0.q.tensor");
  ASSERT_EQ(tensor.size(), 15U);
  EXPECT_EQ(tensor[0], 300);
  EXPECT_EQ(tensor[1], x.min().item<float>());
  EXPECT_EQ(tensor[2], x.max().item<float>());
  EXPECT_NEAR(tensor[3], x.mean().item<float>(), 1e-5);
  EXPECT_NEAR(tensor[4], x.var(false).item<float>(), 1e-4);
  EXPECT_NEAR(tensor[9], x.median().item<float>(), 0.01);
  EXPECT_EQ(read(file, "layer.0.experts.1.gate.tensor"), tensor);
  const std::vector<float> histogram = read(file, "layer.0.q.histogram");
  ASSERT_EQ(histogram.size(), 256U);
  EXPECT_EQ(std::accumulate(histogram.begin(), histogram.end(), 0.0F), 1800);
  const std::vector<float> channels = read(file, "layer.0.q.channels");
  ASSERT_EQ(channels.size(), 24U);
  for (int64_t c = 0; c < 6; ++c) {
    const auto at = static_cast<size_t>(c);
    const at::Tensor channel = x.select(1, c);
    EXPECT_NEAR(channels[at], channel.min().item<float>(), 0.05);
    EXPECT_NEAR(channels[6 + at], channel.max().item<float>(), 0.05);
    EXPECT_NEAR(channels[12 + at], channel.mean().item<float>(), 0.02);
    EXPECT_NEAR(channels[18 + at], channel.var(false).item<float>(), 0.05);
  }
}

}  // namespace
}  // namespace autoglm::calibrate
