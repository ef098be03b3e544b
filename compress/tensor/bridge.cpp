#include "compress/tensor/bridge.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

#include "core/format/display.h"

namespace autoglm::tensor {
namespace {

constexpr int64_t kPieceBytes = 4 << 20;   // copied at a time: small against a weight, large against the cost of a call
constexpr int64_t kWalkBytes = 256 << 10;  // asked for at once to go through a weight; to look up rows, less
constexpr int64_t kChunk = 32 << 10;       // elements that a thread converts and then looks through
constexpr int64_t kLeastShare = 256 << 10;  // elements that are worth a thread

struct TypePair {
  format::DType stored;
  at::ScalarType torch;
};

using format::DType;
constexpr std::array kTypes = {
    TypePair{DType::kBool, at::kBool},
    TypePair{DType::kU8, at::kByte},
    TypePair{DType::kI8, at::kChar},
    TypePair{DType::kF8E4M3, at::kFloat8_e4m3fn},
    TypePair{DType::kF8E5M2, at::kFloat8_e5m2},
    TypePair{DType::kF8E8M0, at::kFloat8_e8m0fnu},
    TypePair{DType::kU16, at::kUInt16},
    TypePair{DType::kI16, at::kShort},
    TypePair{DType::kF16, at::kHalf},
    TypePair{DType::kBF16, at::kBFloat16},
    TypePair{DType::kU32, at::kUInt32},
    TypePair{DType::kI32, at::kInt},
    TypePair{DType::kF32, at::kFloat},
    TypePair{DType::kU64, at::kUInt64},
    TypePair{DType::kI64, at::kLong},
    TypePair{DType::kF64, at::kDouble},
    TypePair{DType::kC64, at::kComplexFloat},
};

/// The index of the first element of a flat tensor that is NaN or infinite, or -1.
int64_t find_non_finite(const at::Tensor& flat) {
  if (!at::isFloatingType(flat.scalar_type()) || flat.numel() == 0) return -1;
  const bool narrow = flat.element_size() == 1;  // the 8-bit floats have no min and max of their own
  const at::Tensor values = narrow ? flat.to(at::kFloat) : flat;
  const auto [low, high] = at::aminmax(values);  // both carry NaN
  if (std::isfinite(low.item<double>()) && std::isfinite(high.item<double>())) return -1;
  return at::isfinite(values).logical_not().nonzero()[0].item<int64_t>();
}

Status non_finite_error(const format::Checkpoint& checkpoint, std::string_view name, int64_t element, double stored,
                        at::ScalarType type) {
  const std::string where = fmt::format("{}: tensor {}: element {}", format::display_path(checkpoint.file_of(name)),
                                        format::display(name), element);
  if (std::isfinite(stored)) {
    return bad_input(fmt::format("{} is {}, beyond the range of {}; compute in bfloat16 or float32 instead", where,
                                 stored, c10::toString(type)));
  }
  return bad_input(fmt::format("{} is {}; the checkpoint is damaged, fetch or convert it again", where,
                               std::isnan(stored) ? "NaN" : "infinite"));
}

int64_t first_non_finite(std::span<const float> values) {
  return format::first_non_finite(DType::kF32, std::as_bytes(values));
}

/// copy_in of floats into float32, in one pass over the bytes: threads convert and check what is near them.
Status copy_in_floats(const format::Checkpoint& checkpoint, std::string_view name, DType stored,
                      std::span<const std::byte> bytes, int64_t first_element, const at::Tensor& out) {
  const auto width = static_cast<size_t>(format::size_of(stored));
  const int64_t step = kPieceBytes / format::size_of(stored);
  const std::span<float> floats(out.mutable_data_ptr<float>(), static_cast<size_t>(out.numel()));
  for (int64_t begin = 0; begin < out.numel(); begin += step) {
    const int64_t end = std::min(begin + step, out.numel());
    const int64_t position = (first_element + begin) * format::size_of(stored);
    const int64_t length = (end - begin) * format::size_of(stored);
    if (length >= kWalkBytes) checkpoint.read_ahead(name, position + format::kReadAheadBytes, length);
    std::atomic<bool> finite = true;
    at::parallel_for(begin, end, kLeastShare, [&](int64_t from, int64_t to) {
      for (int64_t chunk = from; chunk < to; chunk += kChunk) {
        const auto at = static_cast<size_t>(chunk), count = static_cast<size_t>(std::min(kChunk, to - chunk));
        format::to_float(stored, bytes.subspan(at * width, count * width), floats.subspan(at, count));
        if (first_non_finite(floats.subspan(at, count)) >= 0) finite = false;
      }
    });
    checkpoint.release(name);
    if (!finite) {
      const auto at = static_cast<size_t>(begin + first_non_finite(floats.subspan(static_cast<size_t>(begin))));
      double value = floats[at];
      if (stored == DType::kF64) std::memcpy(&value, bytes.data() + at * width, width);
      return non_finite_error(checkpoint, name, first_element + static_cast<int64_t>(at), value, out.scalar_type());
    }
  }
  return ok_status();
}

/// Copies `bytes`, elements of `stored` at any alignment, into the flat tensor `out`, converting and checking them.
Status copy_in(const format::Checkpoint& checkpoint, std::string_view name, DType stored,
               std::span<const std::byte> bytes, int64_t first_element, const at::Tensor& out) {
  if (out.is_cpu() && out.scalar_type() == at::kFloat && format::is_float(stored)) {
    return copy_in_floats(checkpoint, name, stored, bytes, first_element, out);
  }
  const int64_t width = format::size_of(stored);
  const int64_t step = kPieceBytes / width;
  const at::ScalarType source = to_torch(stored);
  const bool direct = source == out.scalar_type() && out.is_cpu();
  at::Tensor staging;
  for (int64_t begin = 0; begin < out.numel(); begin += step) {
    const int64_t count = std::min(step, out.numel() - begin);
    const at::Tensor piece = out.narrow(0, begin, count);
    if (!direct && !staging.defined()) staging = at::empty({count}, source);
    const at::Tensor from = direct ? piece : staging.narrow(0, 0, count);
    std::memcpy(from.data_ptr(), bytes.data() + begin * width, static_cast<size_t>(count * width));
    if (!direct) piece.copy_(from);
    checkpoint.release(name);
    if (const int64_t at_fault = find_non_finite(piece); at_fault >= 0) {
      const double value = from[at_fault].to(at::kDouble).item<double>();
      return non_finite_error(checkpoint, name, first_element + begin + at_fault, value, out.scalar_type());
    }
  }
  return ok_status();
}

Status no_such_rows(std::string_view name, int64_t first, int64_t count) {
  return invalid_argument(
      fmt::format("tensor {}: {} rows from row {} on do not exist", format::display(name), count, first));
}

}  // namespace

at::ScalarType to_torch(DType dtype) {
  return std::find_if(kTypes.begin(), kTypes.end(), [&](const TypePair& p) { return p.stored == dtype; })->torch;
}

Result<DType> from_torch(at::ScalarType type) {
  for (const TypePair& pair : kTypes) {
    if (pair.torch == type) return pair.stored;
  }
  return bad_input(fmt::format("tensors of type {} cannot be stored as safetensors", c10::toString(type)));
}

Result<at::Tensor> load(const format::Checkpoint& checkpoint, std::string_view name, at::ScalarType type,
                        at::Device device) {
  return guarded([&]() -> Result<at::Tensor> {
    AUTOGLM_ASSIGN_OR_RETURN(const auto bytes, checkpoint.bytes(name));
    const format::TensorInfo& info = *checkpoint.find(name);
    at::Tensor out = at::empty(info.shape, at::TensorOptions().dtype(type).device(device));
    AUTOGLM_RETURN_IF_ERROR(copy_in(checkpoint, name, info.dtype, bytes, 0, out.view({-1})));
    return out;
  });
}

Result<at::Tensor> load_rows(const format::Checkpoint& checkpoint, std::string_view name, int64_t first, int64_t count,
                             at::ScalarType type, at::Device device) {
  return guarded([&]() -> Result<at::Tensor> {
    AUTOGLM_RETURN_IF_ERROR(checkpoint.bytes(name).status());
    format::Shape shape = checkpoint.find(name)->shape;
    if (shape.empty() || count < 0 || count > shape[0]) return no_such_rows(name, first, count);
    shape[0] = count;
    at::Tensor out = at::empty(shape, at::TensorOptions().dtype(type).device(device));
    AUTOGLM_RETURN_IF_ERROR(load_rows_into(checkpoint, name, first, out));
    return out;
  });
}

Status load_rows_into(const format::Checkpoint& checkpoint, std::string_view name, int64_t first,
                      const at::Tensor& out) {
  return guarded([&]() -> Status {
    AUTOGLM_ASSIGN_OR_RETURN(const auto bytes, checkpoint.bytes(name));
    const format::TensorInfo& info = *checkpoint.find(name);
    const int64_t count = out.size(0);
    if (info.shape.empty() || first < 0 || first > info.shape[0] - count) return no_such_rows(name, first, count);
    TORCH_CHECK(out.sizes().slice(1) == at::IntArrayRef(info.shape).slice(1), "load_rows_into: rows of another shape");
    const int64_t row = count > 0 ? out.numel() / count : 0;
    const auto skipped = static_cast<size_t>(first * row * format::size_of(info.dtype));
    return copy_in(checkpoint, name, info.dtype, bytes.subspan(skipped), first * row, out.view({-1}));
  });
}

at::Tensor dequantize(const format::QuantizedWeight& weight, at::ScalarType type, at::Device device) {
  at::Tensor out = at::empty({weight.rows, weight.cols}, at::TensorOptions().dtype(type).device(device));
  dequantize_into(weight, out);
  return out;
}

void dequantize_into(const format::QuantizedWeight& weight, const at::Tensor& out) {
  const format::QuantArgs& args = weight.args;
  const int64_t rows = weight.rows, cols = weight.cols, groups = args.groups(cols);
  const auto wrap = [](const auto& stored, at::ScalarType stored_type, int64_t height, int64_t width) {
    return at::from_blob(const_cast<void*>(static_cast<const void*>(stored.data())), {height, width}, stored_type);
  };
  const auto per_group = [&](const auto& stored, at::ScalarType stored_type) {
    if (args.strategy == format::Strategy::kTensor) return wrap(stored, stored_type, 1, 1).expand({rows, 1});
    return wrap(stored, stored_type, rows, groups);
  };
  const at::Tensor values = wrap(weight.values, at::kChar, rows, cols);
  const at::Tensor scales = per_group(weight.scales, at::kFloat);
  const bool shifted = !weight.zero_points.empty();
  const at::Tensor zeros = shifted ? per_group(weight.zero_points, at::kChar) : at::Tensor();

  // Factors [rows, groups] become [count, groups, 1] and broadcast over the columns of a group.
  const auto factors = [](const at::Tensor& stored, int64_t first, int64_t count) {
    return stored.narrow(0, first, count).to(at::kFloat).unsqueeze(2);
  };

  const int64_t step = std::min(rows, std::max<int64_t>(1, kPieceBytes / std::max<int64_t>(1, 4 * cols)));
  std::vector<float> scratch(static_cast<size_t>(step * cols));
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t count = std::min(step, rows - first);
    at::Tensor piece = at::from_blob(scratch.data(), {count, groups, cols / groups}, at::kFloat);
    piece.copy_(values.narrow(0, first, count).view(piece.sizes()));
    if (shifted) piece.sub_(factors(zeros, first, count));
    piece.mul_(factors(scales, first, count));
    out.narrow(0, first, count).copy_(piece.view({count, cols}));
  }
}

std::span<const std::byte> bytes_of(const at::Tensor& tensor) {
  TORCH_CHECK(tensor.is_cpu() && tensor.is_contiguous(), "bytes_of needs a contiguous CPU tensor");
  return {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()};
}

Status check_device(at::Device device) {
  if (device.is_cpu()) return ok_status();
  if (!device.is_cuda())
    return invalid_argument(fmt::format("device {} is not supported: use cpu or cuda", device.str()));
  if (!at::hasCUDA()) {
    return invalid_argument(
        "device cuda: this build of LibTorch has no CUDA, or the machine has no usable GPU; use --device cpu");
  }
  const c10::DeviceIndex count = at::detail::getCUDAHooks().deviceCount();
  if (device.has_index() && device.index() >= count) {
    return invalid_argument(fmt::format("device {} does not exist: this machine has {} GPUs", device.str(), count));
  }
  return ok_status();
}

Status status_from_exception(const std::exception& error) {
  if (const auto* torch_error = dynamic_cast<const c10::Error*>(&error)) {
    std::string message = torch_error->what_without_backtrace();
    message = message.substr(0, message.find('\n'));
    // The CPU allocator throws a plain c10::Error: "... DefaultCPUAllocator: can't allocate memory: you tried ..."
    constexpr std::string_view kAllocator = "DefaultCPUAllocator: ";
    if (const size_t at = message.find(kAllocator); at != std::string::npos) {
      return resource_exhausted("out of memory: " + message.substr(at + kAllocator.size()));
    }
    const bool memory = dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr;
    return memory ? resource_exhausted("out of memory: " + message) : internal_error("LibTorch: " + message);
  }
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return resource_exhausted("out of memory");
  return internal_error(error.what());
}

}  // namespace autoglm::tensor
