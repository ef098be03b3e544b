#include "compress/pass/block_stages.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace autoglm::pass {

using calibrate::Batch;
using calibrate::HiddenStates;
using format::Stage;

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
  const at::Tensor changed = run(block, states.to(decoder_->options().device));
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

Status BlockStages::collect(const model::Block& block, Stage stage, calibrate::Collector& collector,
                            CancelToken& cancel) {
  const bool attention = stage == Stage::kQkv || stage == Stage::kO;
  const auto up_to_stage = [&](model::InputTap tap) -> Run {
    model::ForwardOptions options;
    options.cancel = &cancel;
    options.stop_after = stage;
    options.tap = std::move(tap);
    return [this, options, attention](const model::Block& weights, const at::Tensor& states) {
      return attention ? model::attention_half(decoder_->config(), weights, rotary_, states, options)
                       : model::mlp_half(decoder_->config(), weights, states, options);
    };
  };
  return for_each_batch(block, cancel, up_to_stage(collector.tap()), up_to_stage(collector.source_tap()));
}

Status BlockStages::observe(const model::Block& block, const model::InputTap& tap, CancelToken& cancel) {
  model::ForwardOptions options;
  options.cancel = &cancel;
  options.stop_after = Stage::kDown;
  options.tap = tap;
  const Run run = [&](const model::Block& weights, const at::Tensor& states) {
    return model::forward(decoder_->config(), weights, rotary_, states, options);
  };
  for (const Batch& batch : batches_) AUTOGLM_RETURN_IF_ERROR(run_batch(block, states_, batch, run, cancel));
  return ok_status();
}

Status BlockStages::finish_attention(const model::Block& block, CancelToken& cancel) {
  model::ForwardOptions options;
  options.cancel = &cancel;
  const Run run = [&](const model::Block& weights, const at::Tensor& states) {
    return model::attention_half(decoder_->config(), weights, rotary_, states, options);
  };
  return for_each_batch(block, cancel, run, run);
}

Status BlockStages::finish_mlp(const model::Block& block, CancelToken& cancel) {
  model::ForwardOptions options;
  options.cancel = &cancel;
  const Run run = [&](const model::Block& weights, const at::Tensor& states) {
    return model::mlp_half(decoder_->config(), weights, states, options);
  };
  return for_each_batch(block, cancel, run, run);
}

}  // namespace autoglm::pass
