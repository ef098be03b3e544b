#pragma once
/// What an engine will occupy, found before anything is loaded.
#include "core/base/status.h"
#include "runtime/engine/engine.h"

namespace autoglm::engine {

/// Fills in the options that are 0 (context, cache) and checks all. kInvalidArgument: an option out of range;
/// kResourceExhausted: options.max_ram is too little for weights, activations and a smallest cache, or options.kv_bytes
/// for a page.
Result<MemoryPlan> plan_memory(const Weights& weights, EngineOptions& options);

/// As many as asked for; 0: one for each core. kInvalidArgument: more than a pool may have.
Result<int> thread_count(int asked);

/// How the cache stores keys and values of this model.
kernels::KvLayout kv_layout(const format::ModelConfig& config, kernels::KvType type);

}  // namespace autoglm::engine
