#pragma once
/// RuntimeScorer: eval::Scorer over the runtime, so that what is measured is what users will run: its kernels, its
/// quantized activations and its cache.
#include <cstdint>
#include <filesystem>
#include <memory>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/eval/scorer.h"
#include "runtime/kernels/kernels.h"
#include "runtime/kernels/linear.h"

namespace autoglm::engine {

struct RuntimeScorerOptions {
  kernels::Compute compute = kernels::Compute::kFloat;  ///< of weight-only layers
  kernels::KvType kv = kernels::KvType::kF16;
  int threads = 0;      ///< 0: all cores
  int64_t max_ram = 0;  ///< bytes that the process may occupy; 0: no limit
  int64_t at_once = 8;  ///< prompts that are continued together
};

/// Loads the folder. Sequences are scored one after the other, as a prompt is run; a batch holds one hidden state for
/// each token. Not thread-safe. Errors as of Engine::create.
Result<std::unique_ptr<eval::Scorer>> make_runtime_scorer(const std::filesystem::path& folder,
                                                          const RuntimeScorerOptions& options,
                                                          const CancelToken* cancel = nullptr);

}  // namespace autoglm::engine
