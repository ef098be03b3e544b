#pragma once
/// Between files and LibTorch: dtypes, loading a stored tensor, and exceptions turned into Status.
#include <ATen/core/Tensor.h>

#include <exception>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "core/base/status.h"
#include "core/format/checkpoint.h"
#include "core/format/quantized_weight.h"

namespace autoglm::tensor {

/// Every DType that safetensors and torch share; kBadInput for the others.
Result<at::ScalarType> to_torch(format::DType dtype);
Result<format::DType> from_torch(at::ScalarType type);

/// Reads tensor `name` into memory of its own as `type` on `device`, then releases its mapped pages.
/// kBadInput: absent, or (floats) it holds NaN or infinity; names file, tensor and index.
Result<at::Tensor> load(const format::Checkpoint& checkpoint, std::string_view name, at::ScalarType type,
                        at::Device device = at::kCPU);

/// (q - zero_point) * scale as `type`, rounded like compressed-tensors: computed in float, rounded once.
at::Tensor dequantize(const format::QuantizedWeight& weight, at::ScalarType type, at::Device device = at::kCPU);

/// The bytes of a contiguous CPU tensor.
std::span<const std::byte> bytes_of(const at::Tensor& tensor);

/// Maps a caught exception to a Status: out of memory is kResourceExhausted, anything else kInternal, one line each.
Status status_from_exception(const std::exception& error);

/// Runs `body` (returning Status or Result) and turns what it throws into a Status. Every public function of the
/// compress rooms that calls torch goes through this.
template <typename Body>
auto guarded(Body&& body) -> std::invoke_result_t<Body> {
  try {
    return std::forward<Body>(body)();
  } catch (const std::exception& error) {
    return status_from_exception(error);
  }
}

}  // namespace autoglm::tensor
