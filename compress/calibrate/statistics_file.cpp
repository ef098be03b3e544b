#include "compress/calibrate/statistics_file.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>
#include <span>

#include "core/format/safetensors.h"
#include "core/format/shard_writer.h"

namespace autoglm::calibrate {
namespace {

constexpr int64_t kValues = 15;

format::StoredTensor as_stored(std::string name, format::DType dtype, format::Shape shape,
                               std::span<const float> values) {
  format::StoredTensor out{.name = std::move(name), .dtype = dtype, .shape = std::move(shape), .bytes = {}};
  out.bytes.resize(values.size() * static_cast<size_t>(format::size_of(dtype)));
  format::from_float(dtype, values, out.bytes);
  return out;
}

std::vector<float> values_of(const InputSummary& summary) {
  const Observed& seen = summary.observed();
  std::vector<double> values = {static_cast<double>(summary.tokens()),
                                seen.min,
                                seen.max,
                                summary.mean(),
                                summary.variance(),
                                seen.average_min,
                                seen.average_max};
  for (const double share : {0.001, 0.01, 0.5, 0.99, 0.999}) values.push_back(seen.histogram.quantile(share));
  values.insert(values.end(), {summary.token_absmax_min(), summary.token_absmax_mean(), seen.histogram.limit()});
  return {values.begin(), values.end()};
}

}  // namespace

void StatisticsFile::add(const std::string& module, const InputSummary& summary, bool routed) {
  if (summary.tokens() == 0) return;
  tensors_.push_back(as_stored(module + ".tensor", format::DType::kF32, {kValues}, values_of(summary)));
  if (routed) return;
  const std::vector<int64_t> counts = summary.observed().histogram.coarse(kBins);
  const std::vector<float> shown(counts.begin(), counts.end());
  tensors_.push_back(as_stored(module + ".histogram", format::DType::kF32, {kBins}, shown));
  const at::Tensor channels =
      at::stack({summary.channel_min(), summary.channel_max(), summary.channel_mean().to(at::kFloat),
                 summary.channel_variance().to(at::kFloat)})
          .to(at::kCPU)
          .contiguous();
  tensors_.push_back(as_stored(module + ".channels", format::DType::kBF16, {4, channels.size(1)},
                               {channels.const_data_ptr<float>(), static_cast<size_t>(channels.numel())}));
}

void StatisticsFile::append(StatisticsFile other) {
  tensors_.insert(tensors_.end(), std::make_move_iterator(other.tensors_.begin()),
                  std::make_move_iterator(other.tensors_.end()));
}

Result<StatisticsFile> StatisticsFile::read(const std::filesystem::path& folder) {
  StatisticsFile out;
  std::error_code error;
  if (!std::filesystem::exists(folder / kFile, error)) return out;
  AUTOGLM_ASSIGN_OR_RETURN(const auto file, format::SafetensorsFile::open(folder / kFile));
  for (const format::TensorInfo& tensor : file.tensors()) {
    const auto bytes = file.bytes(tensor);
    out.tensors_.push_back({tensor.name, tensor.dtype, tensor.shape, {bytes.begin(), bytes.end()}});
  }
  return out;
}

Status StatisticsFile::write(const std::filesystem::path& folder) const {
  return format::write_tensors(folder / kFile, tensors_);
}

int64_t StatisticsFile::bytes(int64_t channels, bool routed) {
  constexpr int64_t kNames = 512;  // of its tensors, and what the containers take
  return kNames + 4 * kValues + (routed ? 0 : 4 * kBins + 8 * channels);
}

}  // namespace autoglm::calibrate
