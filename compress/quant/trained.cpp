#include "compress/quant/trained.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "compress/pass/resolve.h"
#include "compress/tensor/bridge.h"
#include "core/format/rewrite.h"

namespace autoglm::quant {
namespace {

constexpr double kBeta1 = 0.9, kBeta2 = 0.99, kEpsilon = 1e-10;
constexpr double kMargin = 0.49;  // of a position to the integer that it begins at

/// x rounded to `type`, with the gradient of x (Bengio et al. 2013, arXiv:1308.3432: straight-through).
at::Tensor rounded(const at::Tensor& x, at::ScalarType type) {
  return type == at::kFloat ? x : x + (x.detach().to(type).to(at::kFloat) - x.detach());
}

template <typename Body>
void for_each_linear(model::Block& block, Body body) {
  for (const format::Stage stage : format::kStages) {
    for (model::Linear* linear : block.linears(stage)) body(*linear);
  }
}

}  // namespace

Result<TrainedVector> TrainedVector::load(const format::Checkpoint& checkpoint, const std::string& name,
                                          bool relative) {
  AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor start, tensor::load(checkpoint, name, at::kFloat));
  TrainedVector out(start, relative ? start : start.abs().mean());
  out.name_ = name;
  out.type_ = tensor::to_torch(checkpoint.find(name)->dtype);
  return out;
}

TrainedVector::TrainedVector(at::Tensor start, at::Tensor unit)
    : start_(std::move(start)),
      unit_(std::move(unit)),
      change_(at::zeros_like(start_).requires_grad_()),
      momentum_(at::zeros_like(start_)),
      square_(at::zeros_like(start_)) {}

TrainedVector TrainedVector::of(const at::Tensor& positions) { return {positions, at::ones({}, positions.options())}; }

at::Tensor TrainedVector::value() const { return rounded(start_ + unit_ * change_, type_); }

void TrainedVector::update(double rate, int64_t step) {
  at::Tensor gradient = change_.grad();
  if (!gradient.defined()) return;  // an expert that no token reached
  momentum_.mul_(kBeta1).add_(gradient, 1 - kBeta1);
  square_.mul_(kBeta2).addcmul_(gradient, gradient, 1 - kBeta2);
  const double first = 1 - std::pow(kBeta1, static_cast<double>(step));
  const double second = 1 - std::pow(kBeta2, static_cast<double>(step));
  change_.detach().addcdiv_(momentum_, square_.div(second).sqrt_().add_(kEpsilon), -rate / first);
  change_.mutable_grad() = at::Tensor();
}

NewValues TrainedVector::stored() const {
  const at::Tensor values = (start_ + unit_ * change_.detach()).to(type_).contiguous();
  const auto bytes = tensor::bytes_of(values);
  return {name_, {bytes.begin(), bytes.end()}};
}

Result<TrainedMatrix> TrainedMatrix::load(const model::Decoder& decoder, const format::ModuleSpec& module,
                                          const at::Tensor& wanted) {
  const format::StoredModel& stored = decoder.stored();
  const format::QuantScheme& scheme = *stored.scheme_of(module);
  TrainedMatrix out;
  out.module_ = module.name;
  out.format_ = stored.quantization->format_of(scheme);
  AUTOGLM_ASSIGN_OR_RETURN(out.form_,
                           format::decode(stored.checkpoint, module.name, scheme, out.format_, module.shape));
  stored.release_weight(module);
  format::QuantizedWeight& form = out.form_;
  const bool one = form.args.strategy == format::Strategy::kTensor;
  const int64_t rows = one ? 1 : form.rows, groups = one ? 1 : form.args.groups(form.cols);
  const int64_t columns = form.rows * form.cols / (rows * groups);
  at::Tensor codes = at::from_blob(form.values.data(), {rows, groups, columns}, at::kChar);
  const int8_t least = form.values.empty() ? 0 : *std::min_element(form.values.begin(), form.values.end());
  const auto highest = static_cast<double>(form.args.q_max());
  // A symmetric matrix may do without its lowest integer (Scheme::restricted), which is not stored.
  const double lowest = form.args.symmetric ? std::max<double>(least, form.args.q_min()) : form.args.q_min();
  if (form.zero_points.empty()) {
    codes = codes.clone();
    out.lowest_ = at::full({1, 1, 1}, lowest);
    out.highest_ = at::full({1, 1, 1}, highest);
  } else {
    const at::Tensor zeros = at::from_blob(form.zero_points.data(), {rows, groups, 1}, at::kChar).to(at::kShort);
    codes = codes.to(at::kShort) - zeros;
    if (form.args.num_bits < 8) codes = codes.to(at::kChar);
    out.lowest_ = lowest - zeros.to(at::kFloat);
    out.highest_ = highest - zeros.to(at::kFloat);
  }
  form.values = {};
  AUTOGLM_ASSIGN_OR_RETURN(out.scales_, TrainedVector::load(stored.checkpoint, module.name + ".weight_scale", true));
  if (!wanted.defined()) {
    out.codes_ = codes.contiguous();
    return out;
  }
  const at::Tensor start = codes.to(at::kFloat), scales = out.scales_.value().detach().view({rows, groups, 1});
  const at::Tensor distance = wanted.view({rows, groups, columns}) / scales - start;
  out.positions_ = TrainedVector::of(start + distance.clamp(-kMargin, kMargin));
  return out;
}

at::Tensor TrainedMatrix::codes() const {
  if (!positions_) return codes_.to(at::kFloat);
  const at::Tensor within = at::maximum(at::minimum(positions_->value(), highest_), lowest_);
  return within + (within.detach().round() - within.detach());
}

at::Tensor TrainedMatrix::value() const {
  const at::Tensor integers = codes();
  const at::Tensor scales = scales_.value().view({integers.size(0), integers.size(1), 1});
  return (integers * scales).view({form_.rows, form_.cols});
}

void TrainedMatrix::update(const Rates& rates, int64_t step) {
  scales_.update(rates.values, step);
  if (positions_) positions_->update(rates.rounding, step);
}

std::vector<NewValues> TrainedMatrix::stored() const {
  if (!positions_) return {scales_.stored()};
  format::QuantizedWeight weight = form_;
  at::Tensor integers = codes();
  if (!form_.zero_points.empty()) integers = integers + (static_cast<double>(form_.args.q_min()) - lowest_);
  integers = integers.to(at::kChar).contiguous();
  weight.values.assign(integers.const_data_ptr<int8_t>(), integers.const_data_ptr<int8_t>() + integers.numel());
  const at::Tensor scales = scales_.value().contiguous();
  weight.scales.assign(scales.const_data_ptr<float>(), scales.const_data_ptr<float>() + scales.numel());
  std::vector<NewValues> out;
  for (format::StoredTensor& tensor : format::encode(weight, module_, format_)) {
    out.push_back({std::move(tensor.name), std::move(tensor.bytes)});
  }
  return out;
}

Result<at::Tensor> Original::weight(const format::ModuleSpec& module) const {
  const auto [spec, first] = pass::source_of(module, decoder->config(), decoder->layout());
  AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor whole, decoder->load_weight(spec, at::kFloat));
  const at::Tensor rows = whole.narrow(0, first, module.shape[0]).contiguous();
  folds.apply(module.name, 0, rows.size(1), {rows.mutable_data_ptr<float>(), static_cast<size_t>(rows.numel())});
  return rows;
}

Result<TrainedBlock> TrainedBlock::load(const model::Decoder& decoder, int64_t layer, const Original* original,
                                        CancelToken& cancel) {
  TrainedBlock out;
  AUTOGLM_ASSIGN_OR_RETURN(out.block_, decoder.load_block(layer, &cancel));
  Status status;
  for_each_linear(out.block_, [&](model::Linear& linear) {
    if (!status.ok()) return;
    const auto load = [&]() -> Status {
      AUTOGLM_RETURN_IF_ERROR(cancel.check());
      if (decoder.stored().scheme_of(linear.spec) != nullptr) {
        at::Tensor wanted;
        if (original != nullptr) {
          AUTOGLM_ASSIGN_OR_RETURN(wanted, original->weight(linear.spec));
        }
        AUTOGLM_ASSIGN_OR_RETURN(TrainedMatrix matrix, TrainedMatrix::load(decoder, linear.spec, wanted));
        out.matrices_.emplace_back(linear.spec.name, std::move(matrix));
        linear.weight = at::Tensor();
      }
      if (linear.bias.defined()) {
        AUTOGLM_ASSIGN_OR_RETURN(TrainedVector bias,
                                 TrainedVector::load(decoder.checkpoint(), linear.spec.bias_name()));
        out.biases_.emplace_back(linear.spec.name, std::move(bias));
      }
      return ok_status();
    };
    status = load();
  });
  AUTOGLM_RETURN_IF_ERROR(status);
  for (const format::ModuleSpec* module : decoder.layout().block(layer)) {
    const auto member = model::norm_member(module->role);
    if (member == nullptr) continue;
    AUTOGLM_ASSIGN_OR_RETURN(TrainedVector norm, TrainedVector::load(decoder.checkpoint(), module->weight_name()));
    out.norms_.emplace_back(member, std::move(norm));
  }
  return out;
}

model::Block TrainedBlock::build() const {
  return build([](at::Tensor value) { return value; });
}

Status TrainedBlock::descend(const std::function<Status(const model::Block&)>& pass) const {
  const at::AutoGradMode with_gradient(true);
  std::vector<std::pair<at::Tensor, at::Tensor>> values;  // as they come from what is trained, and as they are shown
  AUTOGLM_RETURN_IF_ERROR(pass(build([&](const at::Tensor& value) {
    return values.emplace_back(value, value.detach().requires_grad_()).second;
  })));
  for (auto& [value, shown] : values) {
    if (shown.grad().defined()) value.backward(shown.grad());
    value = shown = at::Tensor();
  }
  return ok_status();
}

model::Block TrainedBlock::build(const std::function<at::Tensor(at::Tensor)>& shown) const {
  model::Block block = block_;
  size_t matrix = 0, bias = 0;  // in the order of the block's linears
  for_each_linear(block, [&](model::Linear& linear) {
    if (matrix < matrices_.size() && matrices_[matrix].first == linear.spec.name) {
      linear.weight = shown(matrices_[matrix++].second.value());
    }
    if (bias < biases_.size() && biases_[bias].first == linear.spec.name) {
      linear.bias = shown(biases_[bias++].second.value());
    }
  });
  for (const auto& [member, norm] : norms_) block.*member = shown(norm.value());
  return block;
}

void TrainedBlock::update(const Rates& rates, int64_t step) {
  for (auto& [name, matrix] : matrices_) matrix.update(rates, step);
  for (auto& [name, bias] : biases_) bias.update(rates.values, step);
  for (auto& [member, norm] : norms_) norm.update(rates.values, step);
}

std::vector<NewValues> TrainedBlock::stored() const {
  std::vector<NewValues> out;
  for (const auto& [name, matrix] : matrices_) {
    for (NewValues& values : matrix.stored()) out.push_back(std::move(values));
  }
  for (const auto& [name, bias] : biases_) out.push_back(bias.stored());
  for (const auto& [member, norm] : norms_) out.push_back(norm.stored());
  return out;
}

Status write_over(const format::Checkpoint& checkpoint, const std::vector<NewValues>& values) {
  for (const NewValues& tensor : values) {
    AUTOGLM_RETURN_IF_ERROR(format::rewrite_tensor(checkpoint, tensor.name, tensor.bytes));
  }
  return ok_status();
}

}  // namespace autoglm::quant
