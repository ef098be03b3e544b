#pragma once
/// BlockStages: one block run stage by stage over all calibration states, each part computed once. Private to the room.
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
/// The inputs of o and of a dense down projection are kept between collecting them and going on with the compressed
/// weight, so that a block costs one forward pass in all; without `keep_inner` each half is computed again instead.
class BlockStages {
 public:
  /// Embeds the calibration tokens by `embed` (ids [batch, length] -> [batch, length, hidden]).
  static Result<BlockStages> create(const model::Decoder& decoder, const std::vector<eval::Tokens>& calibration,
                                    const MemoryUse& memory, const std::filesystem::path& scratch,
                                    const std::function<Result<at::Tensor>(const at::Tensor&)>& embed,
                                    CancelToken& cancel);

  /// Runs the block up to `stage`, showing its inputs to `tap`. The stages before it are as they are now.
  Status collect(const model::Block& block, format::Stage stage, const model::InputTap& tap, CancelToken& cancel);

  /// Carries the states over the attention half (before stage gate/up) and over the MLP half (before the next block).
  Status finish_attention(const model::Block& block, CancelToken& cancel);
  Status finish_mlp(const model::Block& block, CancelToken& cancel);

  const calibrate::HiddenStates& states() const { return states_; }
  const std::vector<calibrate::Batch>& batches() const { return batches_; }
  int64_t tokens() const { return tokens_; }

 private:
  /// Runs `body(batch, states)` for each batch; its result, where defined, replaces the states.
  template <typename Body>
  Status for_each_batch(CancelToken& cancel, Body&& body);
  Result<at::Tensor> inner(const calibrate::Batch& batch) const;

  const model::Decoder* decoder_ = nullptr;
  std::vector<calibrate::Batch> batches_;
  calibrate::HiddenStates states_;
  calibrate::HiddenStates inner_;          ///< inputs of o or of down, of the half under way
  std::optional<format::Stage> inner_of_;  ///< which of them `inner_` holds now
  model::Rotary rotary_;
  std::filesystem::path scratch_;
  bool keep_inner_ = true;
  int64_t tokens_ = 0;
};

}  // namespace autoglm::pass
