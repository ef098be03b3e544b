#include "compress/quant/scale_search.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <limits>
#include <optional>

#include "compress/model/linear.h"
#include "compress/quant/grid.h"
#include "compress/tensor/bridge.h"

namespace autoglm::quant {
namespace {

constexpr int64_t kSearchPiece = 16 << 20;  // float32 rows worked on at once
constexpr double kFittingFlops = 800;       // of a weight's grid, which is slower than matrix products

/// A consumer with its columns multiplied.
pass::Target scaled(const pass::Target& consumer, const at::Tensor& columns) {
  pass::Target out = consumer;
  out.read = [read = consumer.read, columns](int64_t first, int64_t count) -> Result<at::Tensor> {
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor rows, read(first, count));
    return rows * columns;
  };
  return out;
}

Result<double> error_of(const pass::Target& consumer, const at::Tensor& columns, CancelToken& cancel) {
  const pass::Target target = scaled(consumer, columns);
  const at::Tensor x = consumer.input->sample.cpu() / columns;
  at::Tensor activation_error;  // of x, where activations are rounded
  if (target.scheme.activations) {
    format::InputQuant quant{*target.scheme.activations};
    quant.args.dynamic = true;  // a static range is found after the fold: here it is that of the sample
    activation_error = x - model::fake_quantize(x, quant);
  }
  std::optional<format::QuantizedWeight> whole;  // for its one grid
  if (target.scheme.weights.strategy == format::Strategy::kTensor) {
    AUTOGLM_RETURN_IF_ERROR(fit_tensor(target, {}, cancel, whole.emplace(make_result(target, 0))));
  }
  double error = 0;
  AUTOGLM_RETURN_IF_ERROR(pass::for_each_piece(
      target, cancel,
      [&](int64_t first, const at::Tensor& rows) -> Status {
        format::QuantizedWeight piece = make_result(target, rows.size(0));
        if (whole) {
          piece.scales = whole->scales;
          piece.zero_points = whole->zero_points;
        } else if (const Status status = fit_rows(rows, {}, 0, target.scheme, piece); !status.ok()) {
          return status.with_context(fmt::format("rows from {} on", first));
        }
        quantize_rows(rows, 0, target.scheme, piece);
        const at::Tensor rounded = tensor::dequantize(piece, at::kFloat);
        at::Tensor output = at::mm(x, (rows - rounded).t());
        if (activation_error.defined()) output.addmm_(activation_error, rounded.t());
        error += output.square_().sum().item<double>();
        return ok_status();
      },
      kSearchPiece));
  return error;
}

}  // namespace

Result<double> rounding_error(const pass::FoldTarget& target, const at::Tensor& scales, CancelToken& cancel) {
  const at::Tensor columns = target.by_column(scales.cpu());
  double error = 0;
  for (const pass::Target& consumer : target.consumers) {
    const Result<double> own = error_of(consumer, columns, cancel);
    if (!own.ok()) {
      return own.status().code() == StatusCode::kCancelled ? own.status() : own.status().with_context(consumer.name);
    }
    error += *own;
  }
  return error;
}

Status choose_scales(pass::FoldTarget& target, std::string_view name, const std::vector<double>& strengths,
                     const std::function<at::Tensor(double strength)>& scales_of, CancelToken& cancel) {
  target.scales = at::ones({target.channels});
  target.note = fmt::format("{}: no scales", name);
  AUTOGLM_ASSIGN_OR_RETURN(double least, rounding_error(target, target.scales, cancel));
  for (const double strength : strengths) {
    const at::Tensor scales = target.storable(scales_of(strength)).cpu();
    AUTOGLM_ASSIGN_OR_RETURN(const double error, rounding_error(target, scales, cancel));
    if (!(error < least)) continue;  // also for NaN
    least = error;
    target.scales = scales;
    target.note = fmt::format("{} α {:g}", name, strength);
  }
  return ok_status();
}

at::Tensor centred(const at::Tensor& scales) { return scales / (scales.amax() * scales.amin()).sqrt(); }

int64_t search_bytes(int64_t rows, int64_t cols) {
  // Rows, the same scaled, rounded and their difference; integers; outputs.
  const int64_t piece = pass::piece_bytes(rows, cols, kSearchPiece);
  const auto width = static_cast<int64_t>(sizeof(float));
  return 5 * piece + kSearchTokens * (3 * cols + 2 * piece / (cols * width)) * width;
}

double search_flops(int64_t rows, int64_t cols, size_t candidates) {
  return static_cast<double>(candidates + 1) * (kFittingFlops + 2 * kSearchTokens) * static_cast<double>(rows * cols);
}

}  // namespace autoglm::quant
