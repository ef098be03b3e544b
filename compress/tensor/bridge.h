#pragma once
/// Between files and LibTorch: dtypes, loading a stored tensor, and exceptions turned into Status.
#include <ATen/core/Tensor.h>

#include <exception>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "core/base/status.h"
#include "core/format/checkpoint.h"
#include "core/format/quantized_weight.h"

namespace autoglm::tensor {

/// Every DType of the safetensors format has its torch type; kBadInput for torch types that the format lacks.
at::ScalarType to_torch(format::DType dtype);
Result<format::DType> from_torch(at::ScalarType type);

/// Reads tensor `name` into memory of its own as `type` on `device`. The file's pages are copied piece by piece and
/// released, so that no more than a few MB of the stored form are resident.
/// kBadInput: absent, or (floats) a value is NaN, infinite or beyond `type`'s range; names file, tensor and element.
Result<at::Tensor> load(const format::Checkpoint& checkpoint, std::string_view name, at::ScalarType type,
                        at::Device device = at::kCPU);

/// As `load`, but only indices [first, first + count) of the first dimension.
Result<at::Tensor> load_rows(const format::Checkpoint& checkpoint, std::string_view name, int64_t first, int64_t count,
                             at::ScalarType type, at::Device device = at::kCPU);

/// The same into memory that the caller has: fills `out` [count, ...], contiguous, of any type and device.
Status load_rows_into(const format::Checkpoint& checkpoint, std::string_view name, int64_t first,
                      const at::Tensor& out);

/// (q - zero_point) * scale as `type` [rows, cols], computed in float and rounded once.
at::Tensor dequantize(const format::QuantizedWeight& weight, at::ScalarType type, at::Device device = at::kCPU);

/// The same into `out` [rows, cols].
void dequantize_into(const format::QuantizedWeight& weight, const at::Tensor& out);

/// The bytes of a contiguous CPU tensor; they live as long as the tensor.
std::span<const std::byte> bytes_of(const at::Tensor& tensor);

/// OK where this LibTorch build and machine have `device`; else kInvalidArgument, in one line.
Status check_device(at::Device device);

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
