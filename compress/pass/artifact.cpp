#include "compress/pass/artifact.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "compress/tensor/bridge.h"
#include "compress/tensor/rounding_error.h"

namespace autoglm::pass {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Rows of a quantized weight as one of its own.
format::QuantizedWeight slice_rows(const format::QuantizedWeight& weight, int64_t first, int64_t count) {
  format::QuantizedWeight out;
  out.args = weight.args;
  out.rows = count;
  out.cols = weight.cols;
  out.scale_dtype = weight.scale_dtype;
  const auto take = [&](const auto& from, auto& to, int64_t per_row) {
    to.assign(from.begin() + first * per_row, from.begin() + (first + count) * per_row);
  };
  take(weight.values, out.values, weight.cols);
  if (weight.args.strategy == format::Strategy::kTensor) {
    out.scales = weight.scales;
    out.zero_points = weight.zero_points;
    return out;
  }
  const int64_t groups = weight.args.groups(weight.cols);
  take(weight.scales, out.scales, groups);
  if (!weight.zero_points.empty()) take(weight.zero_points, out.zero_points, groups);
  return out;
}

/// All of a target but where it is read.
Target describe(const Decision& decision) {
  Target target;
  target.name = decision.module.name;
  target.rows = decision.module.shape.size() == 2 ? decision.module.shape[0] : 1;  // norms, in a whole-model cast
  target.cols = decision.module.shape.back();
  target.scheme = *decision.scheme;
  target.scale_dtype = decision.scale_dtype;
  return target;
}

}  // namespace

StageClock::Scope::Scope(StageClock& clock, std::string stage)
    : clock_(clock), stage_(std::move(stage)), start_(now()) {}
StageClock::Scope::~Scope() { clock_.seconds_[stage_] += now() - start_; }

at::Tensor result_rows(const Target& target, int64_t first, int64_t count, at::ScalarType type) {
  if (const auto* quantized = std::get_if<format::QuantizedWeight>(&target.result)) {
    return tensor::dequantize(slice_rows(*quantized, first, count), type);
  }
  const auto& cast = std::get<CastWeight>(target.result);
  const at::ScalarType stored = tensor::to_torch(cast.dtype);
  const int64_t row = target.cols * format::size_of(cast.dtype);
  at::Tensor rows = at::empty({count, target.cols}, stored);
  std::memcpy(rows.mutable_data_ptr(), cast.bytes.data() + first * row, static_cast<size_t>(count * row));
  return rows.to(type);
}

Result<TensorReport> measure(const Target& target, std::string_view method, const at::Tensor& sample,
                             const at::Tensor& shift, CancelToken& cancel) {
  TensorReport report{target.name, std::string(method), target.scheme.to_string(), 0, 1, 0, target.note};
  tensor::RoundingError sums;
  double output_error = 0, output = 0;
  const auto* quantized = std::get_if<format::QuantizedWeight>(&target.result);
  const auto add = [&](int64_t first, const at::Tensor& rows) {
    if (quantized != nullptr && !sample.defined()) {
      const std::span values(rows.const_data_ptr<float>(), static_cast<size_t>(rows.numel()));
      sums += tensor::rounding_error(values, *quantized, first);
      return ok_status();
    }
    const at::Tensor now = result_rows(target, first, rows.size(0), at::kFloat);
    const at::Tensor a = rows.view({-1}), b = now.view({-1});
    sums.weight += at::dot(a, a).item<double>();
    sums.rounded += at::dot(b, b).item<double>();
    sums.product += at::dot(a, b).item<double>();
    const at::Tensor difference = now.sub_(rows);
    sums.difference += at::dot(b, b).item<double>();  // b is a view of it
    if (sample.defined()) {
      at::Tensor changed = at::mm(sample, difference.t());  // by Q - W
      if (shift.defined()) changed += shift.narrow(0, first, rows.size(0));
      output_error += changed.square_().sum().item<double>();
      output += at::mm(sample, rows.t()).square_().sum().item<double>();
    }
    return ok_status();
  };
  if (target.error && !sample.defined()) {
    sums = *target.error;
  } else {
    const int64_t bytes = sample.defined() ? 8 << 20 : 2 << 20;  // for matrix products; to stay near the processor
    AUTOGLM_RETURN_IF_ERROR(for_each_piece(target, cancel, add, bytes));
  }
  report.mse = sums.difference / static_cast<double>(target.rows * target.cols);
  if (sums.weight > 0 && sums.rounded > 0) report.cosine = sums.product / std::sqrt(sums.weight * sums.rounded);
  if (output > 0) report.output_error = output_error / output;
  return report;
}

model::Linear* linear_of(model::Block& block, const Decision& decision) {
  for (model::Linear* linear : block.linears(*format::stage_of(decision.module.role))) {
    if (linear->spec.name == decision.source.name) return linear;
  }
  return nullptr;
}

Target block_target(const model::Linear& linear, const Decision& decision) {
  Target target = describe(decision);
  target.read = [&linear, start = decision.first_row](int64_t first, int64_t count) -> Result<at::Tensor> {
    const at::Tensor rows = linear.weight.narrow(0, start + first, count);
    if (!rows.is_cpu() || rows.scalar_type() == at::kFloat) return rows.to(at::kCPU, at::kFloat).contiguous();
    AUTOGLM_ASSIGN_OR_RETURN(const format::DType stored, tensor::from_torch(rows.scalar_type()));
    at::Tensor floats = at::empty(rows.sizes(), at::kFloat);  // without LibTorch's threads, beside others of ours
    format::to_float(stored, tensor::bytes_of(rows),
                     {floats.mutable_data_ptr<float>(), static_cast<size_t>(floats.numel())});
    return floats;
  };
  return target;
}

Result<at::Tensor> Artifact::read(const Decision& decision, const std::string& tensor, int64_t first,
                                  int64_t rows) const {
  AUTOGLM_ASSIGN_OR_RETURN(at::Tensor values,
                           tensor::load_rows(source_, tensor, decision.first_row + first, rows, at::kFloat));
  const int64_t cols = values.dim() == 2 ? values.size(1) : 1;
  folds_.apply(decision.module.name, first, cols,
               {values.mutable_data_ptr<float>(), static_cast<size_t>(values.numel())});
  return values;
}

Target Artifact::file_target(const Decision& decision) const {
  Target target = describe(decision);
  target.read = [this, &decision](int64_t first, int64_t count) -> Result<at::Tensor> {
    if (decision.module.shape.size() == 2) return read(decision, decision.source.weight_name(), first, count);
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor all,
                             read(decision, decision.source.weight_name(), 0, decision.module.shape[0]));
    return all.unsqueeze(0);
  };
  return target;
}

Status Artifact::write(const Decision& decision, Target& target) {
  if (auto* cast = std::get_if<CastWeight>(&target.result)) {
    AUTOGLM_RETURN_IF_ERROR(
        writer_->add(decision.module.weight_name(), cast->dtype, decision.module.shape, cast->bytes));
  } else {
    const auto tensors = format::encode(std::get<format::QuantizedWeight>(target.result), decision.module.name,
                                        decision.scheme->format());
    target.result = std::monostate{};  // not kept while a slow disk takes the packed form
    for (const format::StoredTensor& stored : tensors) {
      AUTOGLM_RETURN_IF_ERROR(writer_->add(stored.name, stored.dtype, stored.shape, stored.bytes));
    }
    if (target.scheme.calibrates_input()) {
      std::vector<std::byte> scale(static_cast<size_t>(format::size_of(target.scale_dtype)));
      format::from_float(target.scale_dtype, {&target.input_scale, 1}, scale);
      AUTOGLM_RETURN_IF_ERROR(writer_->add(decision.module.name + ".input_scale", target.scale_dtype, {1}, scale));
    }
  }
  target.result = std::monostate{};
  return ok_status();
}

Status Artifact::copy_rows(const std::string& from, const std::string& to, int64_t first, int64_t count) {
  return writer_->add(to, source_, from, {.first_row = first, .rows = count, .finite = true});
}

Status Artifact::copy_weight(const Decision& decision) {
  const std::string from = decision.source.weight_name(), to = decision.module.weight_name();
  if (!folds_.changes(decision.module.name)) return copy_rows(from, to, decision.first_row, decision.module.shape[0]);
  AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor weight, read(decision, from, 0, decision.module.shape[0]));
  return writer_->add(to, decision.source_dtype, decision.module.shape,
                      tensor::bytes_of(weight.to(tensor::to_torch(decision.source_dtype))));
}

Status Artifact::write_bias(const Decision& decision, CancelToken& cancel, const at::Tensor& corrected) {
  if (!decision.module.has_bias) return ok_status();
  const std::string from = decision.source.bias_name(), to = decision.module.bias_name();
  const int64_t count = decision.module.shape[0];
  const bool cast = decision.scheme && decision.scheme->cast;
  if (!cast && !corrected.defined() && !folds_.changes(decision.module.name)) {
    return copy_rows(from, to, decision.first_row, count);
  }
  AUTOGLM_RETURN_IF_ERROR(cancel.check());
  const format::DType dtype = cast ? *decision.scheme->cast : source_.find(from)->dtype;
  at::Tensor bias;
  if (corrected.defined()) {
    bias = corrected.to(at::kCPU, tensor::to_torch(dtype));
  } else if (folds_.changes(decision.module.name)) {
    AUTOGLM_ASSIGN_OR_RETURN(bias, read(decision, from, 0, count));
    bias = bias.to(tensor::to_torch(dtype));
  } else {
    AUTOGLM_ASSIGN_OR_RETURN(bias,
                             tensor::load_rows(source_, from, decision.first_row, count, tensor::to_torch(dtype)));
  }
  return writer_->add(to, dtype, {count}, tensor::bytes_of(bias));
}

Status Artifact::copy(const std::string& name) { return writer_->add(name, source_, name); }

}  // namespace autoglm::pass
