#include "api/engine.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <thread>

#include "compress/tensor/bridge.h"
#include "core/base/memory.h"
#include "core/base/suggest.h"

namespace autoglm::api {
namespace {

int64_t first_number(const std::string& file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(key, 0) == 0) return std::strtoll(line.c_str() + key.size(), nullptr, 10);
  }
  return 0;
}

}  // namespace

int use_threads(int threads) {
  if (threads <= 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  at::set_num_threads(threads);
  return threads;
}

Result<model::DecoderOptions> decoder_options(const std::string& device, const std::string& compute) {
  static const std::map<std::string, at::ScalarType> types = {
      {"fp32", at::kFloat}, {"bf16", at::kBFloat16}, {"fp16", at::kHalf}};
  const auto type = types.find(compute);
  if (type == types.end()) {
    const std::vector<std::string> known = {"fp32", "bf16", "fp16"};
    return invalid_argument(unknown_word("compute type", compute, known));
  }
  const bool is_cuda = device == "cuda" || device.rfind("cuda:", 0) == 0;
  if (device != "cpu" && !is_cuda) {
    return invalid_argument(fmt::format("unknown device '{}'. Known: cpu, cuda, cuda:0, cuda:1, ...", device));
  }
  return tensor::guarded([&]() -> Result<model::DecoderOptions> {
    const model::DecoderOptions options{type->second, at::Device(device)};
    AUTOGLM_RETURN_IF_ERROR(tensor::check_device(options.device));
    return options;
  });
}

int64_t memory_limit(int64_t asked) {
  if (asked > 0) return asked;
  int64_t limit = first_number("/proc/meminfo", "MemAvailable:") * 1024 + current_rss_bytes();
  if (const int64_t group = first_number("/sys/fs/cgroup/memory.max", ""); group > 0) limit = std::min(limit, group);
  return limit;
}

Status check_range(const char* option, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return ok_status();
  return invalid_argument(fmt::format("{} is {}; give {} to {}", option, value, low, high));
}

}  // namespace autoglm::api
