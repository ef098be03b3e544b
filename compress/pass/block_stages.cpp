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
  AUTOGLM_ASSIGN_OR_RETURN(out.states_, HiddenStates::create(lengths, decoder.config().hidden_size,
                                                             decoder.options().compute, memory.state_bytes, scratch));
  for (const Batch& batch : out.batches_) {
    AUTOGLM_RETURN_IF_ERROR(cancel.check());
    at::Tensor ids = at::empty({batch.count, batch.length}, at::kLong);
    for (int64_t i = 0; i < batch.count; ++i) {
      const eval::Tokens& sequence = calibration[static_cast<size_t>(batch.first + i)];
      std::copy(sequence.begin(), sequence.end(), ids.mutable_data_ptr<int64_t>() + i * batch.length);
    }
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor states, embed(ids));
    AUTOGLM_RETURN_IF_ERROR(out.states_.put(batch.first, states));
  }
  return out;
}

Status BlockStages::for_each_batch(CancelToken& cancel,
                                   const std::function<at::Tensor(const at::Tensor& states)>& body) {
  for (const Batch& batch : batches_) {
    AUTOGLM_RETURN_IF_ERROR(cancel.check());
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor states, states_.get(batch.first, batch.count));
    const at::Tensor changed = body(states.to(decoder_->options().device));
    AUTOGLM_RETURN_IF_ERROR(cancel.check());  // a cancelled forward returns nothing
    if (changed.defined()) AUTOGLM_RETURN_IF_ERROR(states_.put(batch.first, changed));
  }
  return ok_status();
}

Status BlockStages::collect(const model::Block& block, Stage stage, const model::InputTap& tap, CancelToken& cancel) {
  model::ForwardOptions options;
  options.cancel = &cancel;
  options.stop_after = stage;
  options.tap = tap;
  const bool attention = stage == Stage::kQkv || stage == Stage::kO;
  return for_each_batch(cancel, [&](const at::Tensor& states) {
    return attention ? model::attention_half(decoder_->config(), block, rotary_, states, options)
                     : model::mlp_half(decoder_->config(), block, states, options);
  });
}

Status BlockStages::finish_attention(const model::Block& block, CancelToken& cancel) {
  model::ForwardOptions options;
  options.cancel = &cancel;
  return for_each_batch(cancel, [&](const at::Tensor& states) {
    return model::attention_half(decoder_->config(), block, rotary_, states, options);
  });
}

Status BlockStages::finish_mlp(const model::Block& block, CancelToken& cancel) {
  model::ForwardOptions options;
  options.cancel = &cancel;
  return for_each_batch(
      cancel, [&](const at::Tensor& states) { return model::mlp_half(decoder_->config(), block, states, options); });
}

}  // namespace autoglm::pass
