#pragma once
/// StatisticsFile: what calibration saw of every input, kept beside an artifact for exports and for people.
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "compress/calibrate/summary.h"
#include "core/base/status.h"
#include "core/format/quantized_weight.h"

namespace autoglm::calibrate {

/// A safetensors file with, for every input, named by the first module M that reads it:
///   M.tensor     F32 [15]     tokens; of all values: min, max, mean, variance, moving average of min and of max,
///                             quantiles 0.001, 0.01, 0.5, 0.99, 0.999; the least and the mean over tokens of the
///                             largest magnitude of a token; limit of the histogram
///   M.histogram  F32 [256]    counts in equal bins of [-limit, limit)
///   M.channels   BF16 [4, in] min, max, mean, variance of each channel
/// Of routed experts, which are many, the first alone. Not thread-safe.
class StatisticsFile {
 public:
  static constexpr const char* kFile = "statistics.st";  ///< a name that no loader's pattern for weights matches
  static constexpr int64_t kBins = 256;

  void add(const std::string& module, const InputSummary& summary, bool routed);
  void append(StatisticsFile other);
  bool empty() const { return tensors_.empty(); }

  /// Of `folder`; empty where it has none. kBadInput: no safetensors file.
  static Result<StatisticsFile> read(const std::filesystem::path& folder);

  /// Into `folder`, which must not have one. kResourceExhausted: disk.
  Status write(const std::filesystem::path& folder) const;

  /// Bytes held for an input of `channels` channels.
  static int64_t bytes(int64_t channels, bool routed);

 private:
  std::vector<format::StoredTensor> tensors_;
};

}  // namespace autoglm::calibrate
