#include "runtime/engine/model.h"

#include <fmt/format.h>

#include <map>
#include <utility>

#include "core/base/memory.h"

namespace autoglm::engine {

using format::ModuleSpec;
using format::Role;

Result<WeightReader::Bytes> Model::predict(const WeightReader& reader) {
  WeightReader::Bytes total;
  for (const ModuleSpec& module : reader.layout().modules()) {
    if (module.shape.size() != 2) continue;  // norms and the like
    if (module.role == Role::kEmbedding && &module != &reader.stored().head()) {
      total.mapped += reader.stored().weight_bytes(module);  // read row by row
      continue;
    }
    AUTOGLM_ASSIGN_OR_RETURN(const WeightReader::Bytes bytes, reader.predict(module));
    total.packed += bytes.packed;
    total.mapped += bytes.mapped;
  }
  return total;
}

Result<std::unique_ptr<Model>> Model::load(const std::filesystem::path& folder, kernels::ThreadPool& pool,
                                           int64_t max_bytes, const CancelToken* cancel) {
  try {
    AUTOGLM_ASSIGN_OR_RETURN(WeightReader reader, WeightReader::open(folder));
    AUTOGLM_ASSIGN_OR_RETURN(const WeightReader::Bytes bytes, predict(reader));
    const int64_t needed = bytes.packed + bytes.mapped;
    if (max_bytes > 0 && needed > max_bytes) {
      return resource_exhausted(fmt::format("the weights need {} of memory, and the limit leaves {}",
                                            format_bytes(needed), format_bytes(max_bytes)));
    }
    std::unique_ptr<Model> model(new Model(std::move(reader)));
    model->bytes_ = bytes;
    AUTOGLM_RETURN_IF_ERROR(model->load_all(pool, cancel));
    return model;
  } catch (const std::bad_alloc&) {
    return resource_exhausted("not enough memory to load the model");
  } catch (const std::exception& error) {
    return internal_error(error.what());
  }
}

Status Model::load_all(kernels::ThreadPool& pool, const CancelToken* cancel) {
  AUTOGLM_ASSIGN_OR_RETURN(final_norm_, reader_.vector(reader_.layout().find(Role::kFinalNorm)->weight_name()));
  for (int64_t layer = 0; layer < config().num_hidden_layers; ++layer) {
    AUTOGLM_RETURN_IF_ERROR(load_block(layer, pool, cancel));
  }
  AUTOGLM_ASSIGN_OR_RETURN(head_, reader_.linears({&reader_.stored().head()}, pool, cancel));
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
  // Modules that share their input stand together in the layout: collect them, then load each lot.
  std::vector<std::pair<std::vector<Linear>*, std::vector<const ModuleSpec*>>> lots;
  for (const ModuleSpec* module : reader_.layout().block(layer)) {
    if (std::vector<float>* vector = vector_of(module->role); vector != nullptr) {
      AUTOGLM_ASSIGN_OR_RETURN(*vector, reader_.vector(module->weight_name()));
      continue;
    }
    const auto stage = format::stage_of(module->role);
    std::vector<Linear>* into = !stage                             ? &block.moe->router
                                : *stage == format::Stage::kQkv    ? &block.qkv
                                : *stage == format::Stage::kO      ? &block.o
                                : *stage == format::Stage::kGateUp ? &mlp_of(*module).gate_up
                                                                   : &mlp_of(*module).down;
    if (lots.empty() || lots.back().first != into) lots.push_back({into, {}});
    lots.back().second.push_back(module);
  }
  for (const auto& [into, modules] : lots) {
    AUTOGLM_ASSIGN_OR_RETURN(*into, reader_.linears(modules, pool, cancel));
  }
  return ok_status();
}

}  // namespace autoglm::engine
