#pragma once
/// The sub-layers of a block. Private to the room; block.h is what others use.
#include <ATen/core/Tensor.h>

#include <span>

#include "compress/model/block.h"

namespace autoglm::model {

/// x [batch, tokens, hidden] -> [batch, tokens, hidden].
at::Tensor attention(const format::ModelConfig& config, const Block& block, const Rotary& rotary, const at::Tensor& x,
                     const ForwardOptions& options);

/// x [tokens, hidden] -> [tokens, hidden].
at::Tensor run_mlp(const Mlp& mlp, const at::Tensor& x, const ForwardOptions& options);
at::Tensor run_moe(const format::ModelConfig& config, const Moe& moe, const at::Tensor& x,
                   const ForwardOptions& options);

/// Which experts each token goes to.
struct Routing {
  at::Tensor weights, experts;  ///< [tokens, num_experts_per_tok], float32 and int64
};

/// Sigmoid scores; experts are chosen by score + correction inside the best `topk_group` of `n_group` groups (a group
/// counts by its two best), weighted by the score alone (DeepSeek-V3, arXiv 2412.19437, eq. 13 to 16).
Routing route(const format::ModelConfig& config, const Moe& moe, const at::Tensor& x);

/// Reports `x` [.., in] as the input of `linears`. False: nothing after this stage is wanted, or the work was
/// cancelled.
bool enter(format::Stage stage, std::span<const Linear> linears, const at::Tensor& x, const ForwardOptions& options);

}  // namespace autoglm::model
