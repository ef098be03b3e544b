#pragma once
/// BlockStages: one block run stage by stage over all calibration states. Private to the room.
#include <filesystem>
#include <functional>
#include <optional>
#include <vector>

#include "compress/calibrate/collector.h"
#include "compress/calibrate/hidden_states.h"
#include "compress/model/block.h"
#include "compress/model/decoder.h"
#include "compress/pass/plan.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/eval/scorer.h"

namespace autoglm::pass {

/// The calibration states of a whole run. `states` holds the block's input until the attention half is done, then its
/// middle (input + attention), then its output.
///
/// Where a method compares with the source (Needs::drift), the source's own states are carried beside them, and its
/// block, as loaded, is run on each batch before the compressed one.
///
/// A stage is collected from the start of its half, so that little but the states is kept between stages. What enters
/// the last linear of a half (o, or down of a dense MLP) is kept from its collection to the half's end, of the first
/// sequences, as far as the plan gives memory for it; of the others, the half runs twice.
class BlockStages {
 public:
  /// Embeds the calibration tokens by `embed` (ids [batch, length] -> [batch, length, hidden]); the source's own, where
  /// `memory` wants them, by the decoder.
  static Result<BlockStages> create(const model::Decoder& decoder, const std::vector<eval::Tokens>& calibration,
                                    const MemoryUse& memory, const std::filesystem::path& scratch,
                                    const std::function<Result<at::Tensor>(const at::Tensor&)>& embed,
                                    CancelToken& cancel);

  /// To be called with every block before any of its weights is rounded.
  void begin(const model::Block& block);

  /// Runs the block up to `stage`, showing its inputs to `collector`, with the weights as they are now.
  Status collect(const model::Block& block, format::Stage stage, calibrate::Collector& collector, CancelToken& cancel);

  /// Runs the block with the weights as they are, showing the inputs of all its stages to `tap`; the states stay.
  Status observe(const model::Block& block, const model::InputTap& tap, CancelToken& cancel);

  /// Carries the states over the attention half (before stage gate/up) and over the MLP half (before the next block).
  Status finish_attention(const model::Block& block, CancelToken& cancel);
  Status finish_mlp(const model::Block& block, CancelToken& cancel);

  const calibrate::HiddenStates& states() const { return states_; }
  const std::vector<calibrate::Batch>& batches() const { return batches_; }
  int64_t tokens() const { return tokens_; }

 private:
  using Run = std::function<Result<at::Tensor>(const model::Block& block, const at::Tensor& states,
                                               const calibrate::Batch& batch)>;

  /// Runs `source` (where there is one, with its block and states) and then `run` on each batch; what they return,
  /// where defined, replaces the states.
  Status for_each_batch(const model::Block& block, CancelToken& cancel, const Run& run, const Run& source);
  using Half = std::function<at::Tensor(const model::Block& block, const at::Tensor& states)>;
  /// The end of a half, from the states at its start and the inputs of its last linear.
  using HalfOutput = at::Tensor (*)(const format::ModelConfig& config, const model::Block& block,
                                    const at::Tensor& states, const at::Tensor& inputs);

  static bool holds(const calibrate::HiddenStates& kept, const calibrate::Batch& batch) {
    return batch.first + batch.count <= kept.sequences();
  }
  /// For inputs of this width of the batches at the start, as many as `kept_limit_` allows.
  Result<calibrate::HiddenStates> room_for_inputs(int64_t width) const;
  /// Carries the states over `half`, or where its last inputs were kept, over `output` alone.
  Status finish_half(const model::Block& block, const Half& half, HalfOutput output, CancelToken& cancel);
  Status run_batch(const model::Block& block, calibrate::HiddenStates& states, const calibrate::Batch& batch,
                   const Run& run, CancelToken& cancel) const;

  const model::Decoder* decoder_ = nullptr;
  std::vector<calibrate::Batch> batches_;
  calibrate::HiddenStates states_;
  std::optional<calibrate::HiddenStates> source_states_;
  calibrate::HiddenStates kept_;  ///< inputs of the last linear of the half at hand, of the first sequences
  int64_t kept_limit_ = 0;        ///< bytes
  model::Block source_block_;
  model::Rotary rotary_;
  int64_t tokens_ = 0;
};

}  // namespace autoglm::pass
