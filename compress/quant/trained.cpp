#include "compress/quant/trained.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "compress/tensor/bridge.h"
#include "core/format/quantized_weight.h"

namespace autoglm::quant {
namespace {

using format::Role;

constexpr double kBeta1 = 0.9, kBeta2 = 0.99, kEpsilon = 1e-10;

/// x rounded to `type`, with the gradient of x (Bengio et al. 2013, arXiv:1308.3432: straight-through).
at::Tensor rounded(const at::Tensor& x, at::ScalarType type) {
  return type == at::kFloat ? x : x + (x.detach().to(type).to(at::kFloat) - x.detach());
}

at::Tensor model::Block::*norm_of(Role role) {
  switch (role) {
    case Role::kInputNorm: return &model::Block::input_norm;
    case Role::kPostAttentionNorm: return &model::Block::post_attention_norm;
    case Role::kMlpNorm: return &model::Block::mlp_norm;
    case Role::kPostMlpNorm: return &model::Block::post_mlp_norm;
    case Role::kQNorm: return &model::Block::q_norm;
    case Role::kKNorm: return &model::Block::k_norm;
    default: return nullptr;
  }
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
  TrainedVector out;
  out.name_ = name;
  AUTOGLM_ASSIGN_OR_RETURN(out.start_, tensor::load(checkpoint, name, at::kFloat));
  out.type_ = tensor::to_torch(checkpoint.find(name)->dtype);
  out.unit_ = relative ? out.start_ : out.start_.abs().mean();
  out.change_ = at::zeros_like(out.start_).requires_grad_();
  out.momentum_ = at::zeros_like(out.start_);
  out.square_ = at::zeros_like(out.start_);
  return out;
}

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

Result<TrainedMatrix> TrainedMatrix::load(const model::Decoder& decoder, const format::ModuleSpec& module) {
  const format::StoredModel& stored = decoder.stored();
  const format::QuantScheme& scheme = *stored.scheme_of(module);
  AUTOGLM_ASSIGN_OR_RETURN(
      const format::QuantizedWeight weight,
      format::decode(stored.checkpoint, module.name, scheme, stored.quantization->format_of(scheme), module.shape));
  stored.release_weight(module);
  TrainedMatrix out;
  const bool one = weight.args.strategy == format::Strategy::kTensor;
  const int64_t rows = one ? 1 : weight.rows, groups = one ? 1 : weight.args.groups(weight.cols);
  const int64_t columns = weight.rows * weight.cols / (rows * groups);
  const at::Tensor codes = at::from_blob(const_cast<int8_t*>(weight.values.data()), {rows, groups, columns}, at::kChar);
  if (weight.zero_points.empty()) {
    out.codes_ = codes.clone();
  } else {
    const at::Tensor zeros =
        at::from_blob(const_cast<int8_t*>(weight.zero_points.data()), {rows, groups, 1}, at::kChar);
    out.codes_ = codes.to(at::kShort) - zeros.to(at::kShort);
    if (weight.args.num_bits < 8) out.codes_ = out.codes_.to(at::kChar);
  }
  out.codes_ = out.codes_.contiguous();
  AUTOGLM_ASSIGN_OR_RETURN(out.scales_, TrainedVector::load(stored.checkpoint, module.name + ".weight_scale", true));
  out.shape_ = {weight.rows, weight.cols};
  return out;
}

at::Tensor TrainedMatrix::value() const {
  const at::Tensor scales = scales_.value().view({codes_.size(0), codes_.size(1), 1});
  return (codes_.to(at::kFloat) * scales).view(shape_);
}

Result<TrainedBlock> TrainedBlock::load(const model::Decoder& decoder, int64_t layer, CancelToken& cancel) {
  TrainedBlock out;
  AUTOGLM_ASSIGN_OR_RETURN(out.block_, decoder.load_block(layer, &cancel));
  Status status;
  for_each_linear(out.block_, [&](model::Linear& linear) {
    if (!status.ok()) return;
    const auto load = [&]() -> Status {
      AUTOGLM_RETURN_IF_ERROR(cancel.check());
      if (decoder.stored().scheme_of(linear.spec) != nullptr) {
        AUTOGLM_ASSIGN_OR_RETURN(TrainedMatrix matrix, TrainedMatrix::load(decoder, linear.spec));
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
    const auto member = norm_of(module->role);
    if (member == nullptr) continue;
    AUTOGLM_ASSIGN_OR_RETURN(TrainedVector norm, TrainedVector::load(decoder.checkpoint(), module->weight_name()));
    out.norms_.emplace_back(member, std::move(norm));
  }
  return out;
}

model::Block TrainedBlock::build() const {
  model::Block block = block_;
  size_t matrix = 0, bias = 0;  // in the order of the block's linears
  for_each_linear(block, [&](model::Linear& linear) {
    if (matrix < matrices_.size() && matrices_[matrix].first == linear.spec.name) {
      linear.weight = matrices_[matrix++].second.value();
    }
    if (bias < biases_.size() && biases_[bias].first == linear.spec.name) {
      linear.bias = biases_[bias++].second.value();
    }
  });
  for (const auto& [member, norm] : norms_) block.*member = norm.value();
  return block;
}

void TrainedBlock::update(double rate, int64_t step) {
  for (auto& [name, matrix] : matrices_) matrix.update(rate, step);
  for (auto& [name, bias] : biases_) bias.update(rate, step);
  for (auto& [member, norm] : norms_) norm.update(rate, step);
}

std::vector<NewValues> TrainedBlock::stored() const {
  std::vector<NewValues> out;
  for (const auto& [name, matrix] : matrices_) out.push_back(matrix.stored());
  for (const auto& [name, bias] : biases_) out.push_back(bias.stored());
  for (const auto& [member, norm] : norms_) out.push_back(norm.stored());
  return out;
}

}  // namespace autoglm::quant
