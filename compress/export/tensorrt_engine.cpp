#include "compress/export/tensorrt_engine.h"

#include <NvInfer.h>
#include <NvOnnxParser.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>

#include "core/format/file.h"

namespace autoglm::exports {
namespace {

/// Keeps the last error, for the Status.
class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kERROR) error_ = message;
  }
  Status failure(std::string_view what) const {
    return internal_error(fmt::format("TensorRT cannot {}: {}", what, error_.empty() ? "it gave no reason" : error_));
  }

 private:
  std::string error_;
};

nvinfer1::Dims dims_of(const std::vector<int64_t>& shape) {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), dims.d);
  return dims;
}

#if NV_TENSORRT_MAJOR < 11
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"  // what 11 removed
/// Has ranges already, and no batches.
class CachedCalibrator : public nvinfer1::IInt8EntropyCalibrator2 {
 public:
  explicit CachedCalibrator(std::string cache) : cache_(std::move(cache)) {}
  int32_t getBatchSize() const noexcept override { return 1; }
  bool getBatch(void**, const char**, int32_t) noexcept override { return false; }
  const void* readCalibrationCache(size_t& length) noexcept override {
    length = cache_.size();
    return cache_.data();
  }
  void writeCalibrationCache(const void*, size_t) noexcept override {}

 private:
  std::string cache_;
};
#endif

}  // namespace

Status check_tensorrt_engine() { return ok_status(); }

Status build_tensorrt_engine(const std::filesystem::path& folder, std::span<const TensorRtProfile> profiles,
                             [[maybe_unused]] bool use_ranges, [[maybe_unused]] bool is_half) {
  Logger logger;
  const std::unique_ptr<nvinfer1::IBuilder> builder(nvinfer1::createInferBuilder(logger));
  if (builder == nullptr) return logger.failure("start");
  const std::filesystem::path model = folder / "model.onnx";
  uint32_t flags = 0;
#if NV_TENSORRT_MAJOR < 11
  if (!use_ranges) flags = 1U << static_cast<uint32_t>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
#endif
  const std::unique_ptr<nvinfer1::INetworkDefinition> network(builder->createNetworkV2(flags));
  if (network == nullptr) return logger.failure("make a network");
  const std::unique_ptr<nvonnxparser::IParser> parser(nvonnxparser::createParser(*network, logger));
  if (parser == nullptr ||
      !parser->parseFromFile(model.c_str(), static_cast<int>(nvinfer1::ILogger::Severity::kERROR))) {
    return logger.failure("read model.onnx");
  }

  const std::unique_ptr<nvinfer1::IBuilderConfig> config(builder->createBuilderConfig());
  if (config == nullptr) return logger.failure("configure a build");
  nvinfer1::IOptimizationProfile* profile = builder->createOptimizationProfile();
  if (profile == nullptr) return logger.failure("make an optimization profile");
  for (const TensorRtProfile& one : profiles) {
    using Selector = nvinfer1::OptProfileSelector;
    const bool fits = profile->setDimensions(one.input.c_str(), Selector::kMIN, dims_of(one.least)) &&
                      profile->setDimensions(one.input.c_str(), Selector::kOPT, dims_of(one.usual)) &&
                      profile->setDimensions(one.input.c_str(), Selector::kMAX, dims_of(one.greatest));
    if (!fits) return logger.failure(fmt::format("take the shapes of {}", one.input));
  }
  config->addOptimizationProfile(profile);
#if NV_TENSORRT_MAJOR < 11
  std::unique_ptr<CachedCalibrator> calibrator;  // outlives the build
  if (use_ranges) {
    if (is_half) config->setFlag(nvinfer1::BuilderFlag::kFP16);
    config->setFlag(nvinfer1::BuilderFlag::kINT8);
    AUTOGLM_ASSIGN_OR_RETURN(std::string ranges, format::read_text_file(folder / "calibration.cache"));
    calibrator = std::make_unique<CachedCalibrator>(std::move(ranges));
    config->setInt8Calibrator(calibrator.get());
  }
#endif
  const std::unique_ptr<nvinfer1::IHostMemory> engine(builder->buildSerializedNetwork(*network, *config));
  if (engine == nullptr) return logger.failure("build an engine");
  const std::string_view bytes(static_cast<const char*>(engine->data()), engine->size());
  return format::replace_file(folder / "model.engine", bytes);
}

}  // namespace autoglm::exports
