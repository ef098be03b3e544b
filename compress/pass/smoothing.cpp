#include "compress/pass/smoothing.h"

#include <ATen/ATen.h>

#include <set>
#include <span>

#include "compress/model/fold.h"
#include "compress/pass/artifact.h"
#include "compress/tensor/bridge.h"

namespace autoglm::pass {
namespace {

/// How the decision's weight, and bias or norm, will lie in the file; a weight of a block that is computed in a short
/// type also where it becomes integers.
model::StoredAs stored_as(const Decision& decision, const model::Decoder& decoder) {
  const bool cast = decision.scheme && decision.scheme->cast;
  const auto kept = [&](format::DType dtype) { return tensor::to_torch(cast ? *decision.scheme->cast : dtype); };
  model::StoredAs out;
  const at::ScalarType compute = decoder.options().compute;
  if (!decision.is_quantized()) {
    out.weight = kept(decision.source_dtype);
  } else if (compute != at::kFloat) {
    out.weight = compute;
  }
  const format::TensorInfo* bias =
      decision.module.has_bias ? decoder.checkpoint().find(decision.source.bias_name()) : nullptr;
  out.vector = kept(bias != nullptr ? bias->dtype : decision.source_dtype);
  return out;
}

}  // namespace

at::Tensor FoldTarget::by_column(const at::Tensor& by_channel) const {
  return model::by_column(by_channel, head, copies);
}

std::vector<Smoothing::Place> Smoothing::places(int64_t layer) const {
  const auto source = format::fold_points(source_.layout(), source_.config(), layer);
  const auto written = format::fold_points(resolved_.layout, resolved_.config, layer);
  std::vector<Place> out;
  for (size_t i = 0; i < source.size(); ++i) {
    if (smoother_.folds(source[i].kind)) out.push_back({source[i], written[i]});
  }
  return out;
}

void Smoothing::index(const std::vector<const Decision*>& decisions) {
  by_module_.clear();
  by_source_.clear();
  notes_.clear();
  for (const Decision* decision : decisions) {
    by_module_[decision->module.name] = decision;
    by_source_[decision->source.name] = decision;
  }
}

Result<calibrate::StatisticsByLinear> Smoothing::collect(model::Block& block, const std::vector<Place>& places,
                                                         BlockStages& stages, CancelToken& cancel) const {
  std::set<const model::Linear*> wanted;
  for (const Place& place : places) {
    for (const format::ModuleSpec* consumer : place.written.consumers) {
      const Decision& decision = *by_module_.at(consumer->name);
      if (decision.is_quantized()) wanted.insert(linear_of(block, decision));
    }
  }
  std::vector<calibrate::Collector> collectors;
  for (const format::Stage stage : format::kStages) {
    collectors.emplace_back(stage, smoother_.needs(), stages.tokens(),
                            [&](const model::Linear& linear) { return wanted.contains(&linear); });
  }
  std::vector<model::InputTap> taps;
  for (calibrate::Collector& collector : collectors) taps.push_back(collector.tap());
  AUTOGLM_RETURN_IF_ERROR(stages.observe(
      block,
      [&](format::Stage stage, const std::vector<const model::Linear*>& linears, const at::Tensor& x) {
        for (const model::InputTap& tap : taps) tap(stage, linears, x);
      },
      cancel));
  calibrate::StatisticsByLinear out;
  for (calibrate::Collector& collector : collectors) {
    AUTOGLM_ASSIGN_OR_RETURN(calibrate::StatisticsByLinear found, collector.finish());
    out.merge(found);
  }
  return out;
}

Status Smoothing::fold_at(model::Block& block, const Place& place, const calibrate::StatisticsByLinear& statistics,
                          format::Folds& folds, CancelToken& cancel) {
  FoldTarget target{.name = place.written.producer->name,
                    .kind = place.written.kind,
                    .channels = place.written.channels,
                    .head = place.written.head,
                    .copies = place.written.copies};
  for (const format::ModuleSpec* consumer : place.written.consumers) {
    const Decision& decision = *by_module_.at(consumer->name);
    if (!decision.is_quantized()) continue;
    const model::Linear* linear = linear_of(block, decision);
    const auto found = statistics.find(linear);
    if (found == statistics.end() || found->second->tokens == 0) continue;
    target.consumers.push_back(block_target(*linear, decision));
    target.consumers.back().input = found->second.get();
  }
  if (target.consumers.empty()) return ok_status();  // an expert that no token reached, or nothing to be rounded
  target.storable = model::storable_scales(block, place.source, [&](const format::ModuleSpec& module) {
    return stored_as(*by_source_.at(module.name), source_);
  });
  const Status status = smoother_.run(target, cancel);
  if (!status.ok()) return status.code() == StatusCode::kCancelled ? status : status.with_context(target.name);
  for (const Target& consumer : target.consumers) notes_[consumer.name] = target.note;
  if (target.scales.eq(1).all().item<bool>()) return ok_status();
  model::fold(block, place.source, target.scales.to(source_.options().device));
  const at::Tensor scales = target.scales.cpu().contiguous();
  folds.add(place.written, {scales.const_data_ptr<float>(), scales.const_data_ptr<float>() + scales.numel()});
  return ok_status();
}

Result<format::Folds> Smoothing::run(model::Block& block, const std::vector<const Decision*>& decisions,
                                     BlockStages& stages, CancelToken& cancel) {
  index(decisions);
  const std::vector<Place> all = places(block.layer);
  AUTOGLM_ASSIGN_OR_RETURN(const calibrate::StatisticsByLinear statistics, collect(block, all, stages, cancel));
  format::Folds folds;
  for (const Place& place : all) AUTOGLM_RETURN_IF_ERROR(fold_at(block, place, statistics, folds, cancel));
  return folds;
}

void Smoothing::repeat(model::Block& block, const format::Folds& folds) const {
  for (const Place& place : places(block.layer)) {
    const std::span<const float> scales = folds.at(place.written.producer->name);
    if (scales.empty()) continue;
    const at::Tensor values = at::tensor(at::ArrayRef<float>(scales.data(), scales.size()));
    model::fold(block, place.source, values.to(source_.options().device));
  }
}

std::string Smoothing::note(const std::string& module) const {
  const auto found = notes_.find(module);
  return found == notes_.end() ? "" : found->second;
}

}  // namespace autoglm::pass
