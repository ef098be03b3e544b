#include "compress/quant/cast.h"

#include <fmt/format.h>

#include <cmath>

namespace autoglm::quant {
namespace {

/// The smallest magnitude that rounds to infinity in `dtype`: half a step above its largest number.
float overflow_of(format::DType dtype) {
  switch (dtype) {
    case format::DType::kF16: return 65520.0f;
    case format::DType::kBF16: return 0x1.ffp127f;
    default: return HUGE_VALF;
  }
}

}  // namespace

Status cast(pass::Target& target, CancelToken& cancel) {
  pass::CastWeight out;
  out.dtype = *target.scheme.cast;
  const int64_t element = format::size_of(out.dtype);
  out.bytes.resize(static_cast<size_t>(target.rows * target.cols * element));
  AUTOGLM_RETURN_IF_ERROR(pass::for_each_piece(target, cancel, [&](int64_t first, const at::Tensor& rows) -> Status {
    const std::span<const float> values(rows.const_data_ptr<float>(), static_cast<size_t>(rows.numel()));
    const float limit = overflow_of(out.dtype);
    for (size_t i = 0; i < values.size(); ++i) {
      if (std::fabs(values[i]) < limit) continue;
      const int64_t row = first + static_cast<int64_t>(i) / target.cols, col = static_cast<int64_t>(i) % target.cols;
      if (!std::isfinite(values[i])) {
        return bad_input(fmt::format("the weight is {} at row {}, column {}", values[i], row, col));
      }
      return bad_input(fmt::format("{} at row {}, column {} does not fit in {}; use a wider type", values[i], row, col,
                                   format::to_string(out.dtype)));
    }
    const size_t at = static_cast<size_t>(first * target.cols * element);
    format::from_float(out.dtype, values,
                       std::span(out.bytes).subspan(at, values.size() * static_cast<size_t>(element)));
    return ok_status();
  }));
  target.result = std::move(out);
  return ok_status();
}

}  // namespace autoglm::quant
