#include "compress/pass/block_stages.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

namespace autoglm::pass {

using calibrate::Batch;
using calibrate::HiddenStates;
using format::Stage;

namespace {

/// The linear that ends a half of the block, where `stage` is its own and its inputs are one tensor for all tokens.
const model::Linear* end_of_half(const model::Block& block, Stage stage) {
  if (stage == Stage::kO) return &block.o;
  return stage == Stage::kDown && block.mlp ? &block.mlp->down : nullptr;
}

}  // namespace

Result<BlockStages> BlockStages::create(const model::Decoder& decoder, const std::vector<eval::Tokens>& calibration,
                                        const MemoryUse& memory, const std::filesystem::path& scratch,
                                        const std::function<Result<at::Tensor>(const at::Tensor&)>& embed,
                                        CancelToken& cancel) {
  BlockStages out;
  out.decoder_ = &decoder;
  std::vector<int64_t> lengths;
  for (const eval::Tokens& sequence : calibration) {
    if (sequence.empty()) return invalid_argument("a calibration sequence is empty");
    lengths.push_back(static_cast<int64_t>(sequence.size()));
    out.tokens_ += lengths.back();
  }
  if (lengths.empty()) return invalid_argument("there are no calibration sequences");
  out.rotary_ = decoder.rotary(*std::max_element(lengths.begin(), lengths.end()));
  out.batches_ = calibrate::cut_batches(lengths, memory.batch_tokens);
  const auto make_states = [&] {
    return HiddenStates::create(lengths, decoder.config().hidden_size, decoder.options().compute, memory.state_bytes,
                                scratch);
  };
  AUTOGLM_ASSIGN_OR_RETURN(out.states_, make_states());
  if (memory.source_states) {
    AUTOGLM_ASSIGN_OR_RETURN(out.source_states_, make_states());
  }
  out.kept_limit_ = memory.kept_input_bytes;
  for (const Batch& batch : out.batches_) {
    AUTOGLM_RETURN_IF_ERROR(cancel.check());
    at::Tensor ids = at::empty({batch.count, batch.length}, at::kLong);
    for (int64_t i = 0; i < batch.count; ++i) {
      const eval::Tokens& sequence = calibration[static_cast<size_t>(batch.first + i)];
      std::copy(sequence.begin(), sequence.end(), ids.mutable_data_ptr<int64_t>() + i * batch.length);
    }
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor states, embed(ids));
    AUTOGLM_RETURN_IF_ERROR(out.states_.put(batch.first, states));
    if (!out.source_states_) continue;
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor source, decoder.embed(ids));
    AUTOGLM_RETURN_IF_ERROR(out.source_states_->put(batch.first, source));
  }
  return out;
}

void BlockStages::begin(const model::Block& block) {
  if (!source_states_) return;
  source_block_ = block;
  for (const Stage stage : format::kStages) {
    for (model::Linear* linear : source_block_.linears(stage)) {
      linear->weight = linear->weight.clone();
      if (linear->bias.defined()) linear->bias = linear->bias.clone();
    }
  }
}

Status BlockStages::run_batch(const model::Block& block, HiddenStates& all, const Batch& batch, const Run& run,
                              CancelToken& cancel) const {
  AUTOGLM_RETURN_IF_ERROR(cancel.check());
  AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor states, all.get(batch.first, batch.count));
  AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor changed, run(block, states.to(decoder_->options().device), batch));
  AUTOGLM_RETURN_IF_ERROR(cancel.check());  // a cancelled forward returns nothing
  return changed.defined() ? all.put(batch.first, changed) : ok_status();
}

Status BlockStages::for_each_batch(const model::Block& block, CancelToken& cancel, const Run& run, const Run& source) {
  for (const Batch& batch : batches_) {
    if (source_states_) AUTOGLM_RETURN_IF_ERROR(run_batch(source_block_, *source_states_, batch, source, cancel));
    AUTOGLM_RETURN_IF_ERROR(run_batch(block, states_, batch, run, cancel));
  }
  return ok_status();
}

Result<HiddenStates> BlockStages::room_for_inputs(int64_t width) const {
  const at::ScalarType type = decoder_->options().compute;
  int64_t sequences = 0, bytes = 0;
  for (const Batch& batch : batches_) {
    bytes += batch.tokens() * width * static_cast<int64_t>(c10::elementSize(type));
    if (bytes > kept_limit_) break;
    sequences = batch.first + batch.count;
  }
  const auto begin = states_.lengths().begin();
  return HiddenStates::create({begin, begin + sequences}, width, type, kept_limit_, {});
}

Status BlockStages::collect(const model::Block& block, Stage stage, calibrate::Collector& collector,
                            CancelToken& cancel) {
  const bool attention = stage == Stage::kQkv || stage == Stage::kO;
  const auto up_to_stage = [&](model::InputTap tap) -> Run {
    model::ForwardOptions options;
    options.cancel = &cancel;
    options.stop_after = stage;
    options.tap = std::move(tap);
    return [this, options, attention](const model::Block& weights, const at::Tensor& states, const Batch&) {
      return attention ? model::attention_half(decoder_->config(), weights, rotary_, states, options)
                       : model::mlp_half(decoder_->config(), weights, states, options);
    };
  };
  const Run source = up_to_stage(collector.source_tap());
  const model::Linear* last = end_of_half(block, stage);
  if (last == nullptr) return for_each_batch(block, cancel, up_to_stage(collector.tap()), source);

  kept_ = {};  // of an attempt before this one
  AUTOGLM_ASSIGN_OR_RETURN(kept_, room_for_inputs(last->weight.size(1)));
  at::Tensor seen;
  const Run run = up_to_stage([&, show = collector.tap()](Stage at, const auto& linears, const at::Tensor& x) {
    show(at, linears, x);
    if (at == stage) seen = x;
  });
  const Run run_and_keep = [&](const model::Block& weights, const at::Tensor& states,
                               const Batch& batch) -> Result<at::Tensor> {
    AUTOGLM_ASSIGN_OR_RETURN(at::Tensor nothing, run(weights, states, batch));
    AUTOGLM_RETURN_IF_ERROR(cancel.check());
    const at::Tensor inputs = std::exchange(seen, {});
    if (holds(kept_, batch)) {
      AUTOGLM_RETURN_IF_ERROR(kept_.put(batch.first, inputs.view({batch.count, batch.length, -1})));
    }
    return nothing;
  };
  return for_each_batch(block, cancel, run_and_keep, source);
}

Status BlockStages::observe(const model::Block& block, const model::InputTap& tap, CancelToken& cancel) {
  model::ForwardOptions options;
  options.cancel = &cancel;
  options.stop_after = Stage::kDown;
  options.tap = tap;
  const Run run = [&](const model::Block& weights, const at::Tensor& states, const Batch&) {
    return model::forward(decoder_->config(), weights, rotary_, states, options);
  };
  for (const Batch& batch : batches_) AUTOGLM_RETURN_IF_ERROR(run_batch(block, states_, batch, run, cancel));
  return ok_status();
}

Status BlockStages::finish_half(const model::Block& block, const Half& half, HalfOutput output, CancelToken& cancel) {
  const HiddenStates kept = std::exchange(kept_, {});  // freed at the end
  const Run whole = [&](const model::Block& weights, const at::Tensor& states, const Batch&) {
    return half(weights, states);
  };
  const Run rest = [&](const model::Block& weights, const at::Tensor& states,
                       const Batch& batch) -> Result<at::Tensor> {
    if (!holds(kept, batch)) return half(weights, states);
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor inputs, kept.get(batch.first, batch.count));
    return output(decoder_->config(), weights, states, inputs.to(states.device()));
  };
  return for_each_batch(block, cancel, rest, whole);
}

Status BlockStages::finish_attention(const model::Block& block, CancelToken& cancel) {
  model::ForwardOptions options;
  options.cancel = &cancel;
  const Half half = [&](const model::Block& weights, const at::Tensor& states) {
    return model::attention_half(decoder_->config(), weights, rotary_, states, options);
  };
  return finish_half(block, half, model::attention_output, cancel);
}

Status BlockStages::finish_mlp(const model::Block& block, CancelToken& cancel) {
  model::ForwardOptions options;
  options.cancel = &cancel;
  const Half half = [&](const model::Block& weights, const at::Tensor& states) {
    return model::mlp_half(decoder_->config(), weights, states, options);
  };
  return finish_half(block, half, model::mlp_output, cancel);
}

}  // namespace autoglm::pass
