#include "compress/pass/block_stages.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "compress/tensor/bridge.h"

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
  out.scratch_ = scratch;
  out.keep_inner_ = memory.keep_inner;
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

template <typename Body>
Status BlockStages::for_each_batch(CancelToken& cancel, Body&& body) {
  for (const Batch& batch : batches_) {
    AUTOGLM_RETURN_IF_ERROR(cancel.check());
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor states, states_.get(batch.first, batch.count));
    AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor changed, body(batch, states.to(decoder_->options().device)));
    AUTOGLM_RETURN_IF_ERROR(cancel.check());
    if (changed.defined()) AUTOGLM_RETURN_IF_ERROR(states_.put(batch.first, changed));
  }
  return ok_status();
}

/// The kept input of this batch, or an undefined tensor.
Result<at::Tensor> BlockStages::inner(const Batch& batch) const {
  if (!inner_of_) return at::Tensor();
  AUTOGLM_ASSIGN_OR_RETURN(const at::Tensor kept, inner_.get(batch.first, batch.count));
  return kept.to(decoder_->options().device);
}

Status BlockStages::collect(const model::Block& block, Stage stage, const model::InputTap& tap, CancelToken& cancel) {
  const bool attention = stage == Stage::kQkv || stage == Stage::kO;
  const bool keep = keep_inner_ && (stage == Stage::kO || (stage == Stage::kDown && block.mlp));
  if (keep) {
    const int64_t width = (stage == Stage::kO ? block.o : block.mlp->down).weight.size(1);
    AUTOGLM_ASSIGN_OR_RETURN(inner_, HiddenStates::create(states_.lengths(), width, decoder_->options().compute,
                                                          std::numeric_limits<int64_t>::max(), scratch_));
  }
  AUTOGLM_RETURN_IF_ERROR(
      for_each_batch(cancel, [&](const Batch& batch, const at::Tensor& states) -> Result<at::Tensor> {
        model::ForwardOptions options;
        options.cancel = &cancel;
        options.stop_after = stage;
        Status kept;
        options.tap = [&](Stage at, const std::vector<const model::Linear*>& linears, const at::Tensor& x) {
          tap(at, linears, x);
          if (keep && at == stage) kept = inner_.put(batch.first, x.view({batch.count, batch.length, x.size(-1)}));
        };
        if (attention) {
          model::attention_half(decoder_->config(), block, rotary_, states, options);
        } else {
          model::mlp_half(decoder_->config(), block, states, options);
        }
        AUTOGLM_RETURN_IF_ERROR(kept);
        return at::Tensor();
      }));
  if (keep) inner_of_ = stage;
  return ok_status();
}

Status BlockStages::finish_attention(const model::Block& block, CancelToken& cancel) {
  AUTOGLM_RETURN_IF_ERROR(
      for_each_batch(cancel, [&](const Batch& batch, const at::Tensor& states) -> Result<at::Tensor> {
        model::ForwardOptions options;
        options.cancel = &cancel;
        AUTOGLM_ASSIGN_OR_RETURN(options.resume, inner(batch));
        return model::attention_half(decoder_->config(), block, rotary_, states, options);
      }));
  inner_ = HiddenStates();
  inner_of_.reset();
  return ok_status();
}

Status BlockStages::finish_mlp(const model::Block& block, CancelToken& cancel) {
  AUTOGLM_RETURN_IF_ERROR(
      for_each_batch(cancel, [&](const Batch& batch, const at::Tensor& states) -> Result<at::Tensor> {
        model::ForwardOptions options;
        options.cancel = &cancel;
        AUTOGLM_ASSIGN_OR_RETURN(options.resume, inner(batch));
        return model::mlp_half(decoder_->config(), block, states, options);
      }));
  inner_ = HiddenStates();
  inner_of_.reset();
  return ok_status();
}

}  // namespace autoglm::pass
