#include "runtime/engine/model.h"

#include <cstddef>
#include <span>
#include <utility>

namespace autoglm::engine {

using format::ModuleSpec;
using format::Role;

namespace {

/// Has matrices in a mapped file read now: in order and by one thread, the kernel finds huge pages for them; asked for
/// by several threads as they get there, it often does not.
void bring_in(const std::vector<Linear>& linears) {
  constexpr size_t kHugePage = 2 << 20;
  for (const Linear& linear : linears) {
    const std::span<const std::byte> bytes = linear.weight.bytes();
    const volatile std::byte* const read = bytes.data();
    for (size_t at = 0; at < bytes.size(); at += kHugePage) static_cast<void>(read[at]);
  }
}

}  // namespace

Result<std::unique_ptr<Model>> Model::load(std::unique_ptr<const Weights> weights, kernels::ThreadPool& pool,
                                           const CancelToken* cancel) {
  try {
    std::unique_ptr<Model> model(new Model(std::move(weights)));
    AUTOGLM_RETURN_IF_ERROR(model->load_all(pool, cancel));
    return model;
  } catch (const std::bad_alloc&) {
    return resource_exhausted("not enough memory to load the model");
  } catch (const std::exception& error) {
    return internal_error(error.what());
  }
}

Status Model::load_all(kernels::ThreadPool& pool, const CancelToken* cancel) {
  weights_->keep();
  AUTOGLM_ASSIGN_OR_RETURN(final_norm_, weights_->vector(*weights_->layout().find(Role::kFinalNorm)));
  for (int64_t layer = 0; layer < config().num_hidden_layers; ++layer) {
    AUTOGLM_RETURN_IF_ERROR(load_block(layer, pool, cancel));
  }
  AUTOGLM_ASSIGN_OR_RETURN(head_, weights_->linears({&weights_->head()}, pool, cancel));
  bring_in(head_);
  return ok_status();
}

Status Model::load_block(int64_t layer, kernels::ThreadPool& pool, const CancelToken* cancel) {
  Block& block = blocks_.emplace_back();
  if (config().is_moe_layer(layer)) {
    block.moe.emplace().experts.resize(static_cast<size_t>(config().n_routed_experts));
    if (config().n_shared_experts > 0) block.moe->shared.emplace();
  } else {
    block.mlp.emplace();
  }
  const auto mlp_of = [&](const ModuleSpec& module) -> Mlp& {
    if (module.expert >= 0) return block.moe->experts[static_cast<size_t>(module.expert)];
    return block.moe ? *block.moe->shared : *block.mlp;
  };
  const auto vector_of = [&](Role role) -> std::vector<float>* {
    switch (role) {
      case Role::kInputNorm: return &block.input_norm;
      case Role::kPostAttentionNorm: return &block.post_attention_norm;
      case Role::kMlpNorm: return &block.mlp_norm;
      case Role::kPostMlpNorm: return &block.post_mlp_norm;
      case Role::kQNorm: return &block.q_norm;
      case Role::kKNorm: return &block.k_norm;
      case Role::kRouterCorrection: return &block.moe->correction;
      default: return nullptr;
    }
  };
  for (const ModuleSpec* module : weights_->layout().block(layer)) {
    if (std::vector<float>* vector = vector_of(module->role); vector != nullptr) {
      AUTOGLM_ASSIGN_OR_RETURN(*vector, weights_->vector(*module));
    }
  }
  for (const auto& modules : matrices_of_block(weights_->layout(), layer)) {
    const ModuleSpec& first = *modules.front();
    const auto stage = format::stage_of(first.role);
    std::vector<Linear>& into = !stage                             ? block.moe->router
                                : *stage == format::Stage::kQkv    ? block.qkv
                                : *stage == format::Stage::kO      ? block.o
                                : *stage == format::Stage::kGateUp ? mlp_of(first).gate_up
                                                                   : mlp_of(first).down;
    AUTOGLM_ASSIGN_OR_RETURN(into, weights_->linears(modules, pool, cancel));
    if (first.expert < 0) bring_in(into);  // experts when a token needs them
  }
  return ok_status();
}

}  // namespace autoglm::engine
