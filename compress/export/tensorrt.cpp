#include "compress/export/tensorrt.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>

#include "compress/export/input_statistics.h"
#include "compress/export/tensorrt_engine.h"

namespace autoglm::exports {
namespace {

constexpr int64_t kUsualLength = 4096, kUsualPrompt = 512;
constexpr float kMostInteger = 127;
constexpr std::string_view kCacheHeader = "TRT-101300-EntropyCalibration2\n";

std::vector<TensorRtProfile> profiles_of(const format::ModelConfig& config, int64_t batch, int64_t length) {
  const int64_t prompt = std::min(kUsualPrompt, length / 2);
  std::vector<TensorRtProfile> out = {
      {"input_ids", {1, 1}, {1, prompt}, {batch, length}},
      {"attention_mask", {1, 1}, {1, 2 * prompt}, {batch, 2 * length - 1}},
      {"position_ids", {1, 1}, {1, prompt}, {batch, length}},
  };
  const int64_t heads = config.num_key_value_heads, n = config.head_dim;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (const char* part : {"key", "value"}) {
      out.push_back({fmt::format("past_key_values.{}.{}", layer, part),
                     {1, heads, 0, n},
                     {1, heads, prompt, n},
                     {batch, heads, length - 1, n}});
    }
  }
  return out;
}

std::string to_json(const std::vector<TensorRtProfile>& profiles) {
  nlohmann::ordered_json out;
  for (const TensorRtProfile& one : profiles) {
    out[one.input] = {{"min", one.least}, {"opt", one.usual}, {"max", one.greatest}};
  }
  return out.dump(2) + "\n";
}

/// Lines of the cache, one for each value that linears read and whose range is known.
Result<std::map<std::string, float>> scales_of(const format::StoredModel& model,
                                               const std::map<std::string, std::string>& inputs) {
  AUTOGLM_ASSIGN_OR_RETURN(const auto statistics, InputStatistics::open(model));
  std::map<std::string, float> scales;
  for (const format::ModuleSpec& module : model.layout.modules()) {
    const auto value = inputs.find(module.name);
    if (value == inputs.end()) continue;
    if (model.scheme_of(module) != nullptr) {
      AUTOGLM_ASSIGN_OR_RETURN(const auto input, model.input_quant(module));
      if (input && !input->args.dynamic) scales.emplace(value->second, input->scale);
    }
    if (const auto largest = statistics.largest(module)) scales.emplace(value->second, *largest / kMostInteger);
  }
  return scales;
}

}  // namespace

Result<TensorRtReport> write_tensorrt(const format::StoredModel& model, const TensorRtOptions& options,
                                      format::FolderWriter& folder, CancelToken& cancel) {
  if (options.engine) AUTOGLM_RETURN_IF_ERROR(check_tensorrt_engine());
  const int64_t trained = model.config.max_position_embeddings;
  const int64_t length = options.max_length != 0 ? options.max_length : std::min(kUsualLength, trained);
  if (options.max_batch < 1 || length < 2 || length > trained) {
    return invalid_argument(
        fmt::format("tensorrt: --max-batch is {} and --max-length {}; give at least 1, and 2 to {} tokens",
                    options.max_batch, length, trained));
  }
  TensorRtReport report;
  AUTOGLM_ASSIGN_OR_RETURN(
      report.onnx, write_onnx(model, {.preset = "tensorrt", .operators = "qdq", .type = options.type}, folder, cancel));
  const std::vector<TensorRtProfile> profiles = profiles_of(model.config, options.max_batch, length);
  AUTOGLM_RETURN_IF_ERROR(folder.write_file("profiles.json", to_json(profiles)));
  AUTOGLM_ASSIGN_OR_RETURN(const auto scales, scales_of(model, report.onnx.inputs));
  if (!scales.empty()) {
    std::string cache(kCacheHeader);
    for (const auto& [name, scale] : scales) cache += fmt::format("{}: {:08x}\n", name, std::bit_cast<uint32_t>(scale));
    AUTOGLM_RETURN_IF_ERROR(folder.write_file("calibration.cache", cache));
    report.ranges = std::ssize(scales);
  }
  if (options.engine) {
    const bool is_quantized = report.onnx.types.contains("INT8") || report.onnx.types.contains("INT4");
    AUTOGLM_RETURN_IF_ERROR(
        build_tensorrt_engine(folder.staging(), profiles, !scales.empty() && !is_quantized, options.type != "fp32"));
  }
  return report;
}

}  // namespace autoglm::exports
