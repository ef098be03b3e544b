#pragma once
/// An engine of a model.onnx, by TensorRT: tensorrt_engine.cpp where NvInfer.h was found, no_tensorrt.cpp elsewhere.
#include <filesystem>
#include <span>

#include "compress/export/tensorrt.h"
#include "core/base/status.h"

namespace autoglm::exports {

/// OK where this build has TensorRT; else kInvalidArgument says how to get it.
Status check_tensorrt_engine();

/// Builds `folder`/model.engine of its model.onnx, for this machine's GPU. `use_ranges`: of a network without Q/DQ, in
/// INT8 by calibration.cache (TensorRT 10; 11 does without). `is_half`: it computes in float16. kInternal: what
/// TensorRT logged.
Status build_tensorrt_engine(const std::filesystem::path& folder, std::span<const TensorRtProfile> profiles,
                             bool use_ranges, bool is_half);

}  // namespace autoglm::exports
