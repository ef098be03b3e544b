#pragma once
/// Plan: what a compression will write, and what it needs of memory, disk and time; from config and file headers alone.
#include <ATen/core/ScalarType.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "compress/pass/recipe.h"
#include "compress/pass/registry.h"
#include "compress/pass/resolve.h"
#include "core/base/status.h"

namespace autoglm::pass {

struct PlanOptions {
  int64_t max_ram = 0;  ///< bytes; 0: no limit
  int64_t max_shard_bytes = 5'000'000'000;
  int64_t sequences = 0;  ///< calibration
  int64_t length = 0;     ///< tokens of the longest
  at::ScalarType compute = at::kFloat;
  int threads = 1;
};

/// One module, or all alike modules of the blocks taken together in `lines`.
struct PlannedModule {
  std::string name, scheme, method;  ///< scheme "keep": copied
  int64_t parameters = 0;
  int64_t bytes_before = 0, bytes_after = 0;
};

/// How the pipeline is to use memory; chosen by the plan, obeyed by the pipeline.
struct MemoryUse {
  bool streaming = true;         ///< tensor by tensor; the decoder never runs
  bool overlap = true;           ///< of streaming: a tensor is written while the next one is rounded
  int64_t batch_tokens = 1024;   ///< tokens run through a block at once
  int64_t state_bytes = 0;       ///< states held in memory; the rest goes to disk
  bool source_states = false;    ///< the source's states and block are carried too (as many bytes again)
  int64_t kept_input_bytes = 0;  ///< inputs of o, then of down, of the first sequences: these run once, not twice
  int64_t statistics_bytes = 0;  ///< at once; experts are calibrated in as many rounds as that takes

  int64_t copies() const { return source_states ? 2 : 1; }  ///< of the states
};

struct Plan {
  std::vector<PlannedModule> modules;
  int64_t other_bytes = 0;  ///< tensors carried over
  int64_t bytes_before = 0, bytes_after = 0;
  int64_t shards = 1;
  int64_t disk_bytes = 0;  ///< at most at once: output, the journal of finished blocks, and spilled states
  int64_t peak_rss = 0;    ///< of the process, mapped pages included
  double seconds = 0;
  MemoryUse memory;
  std::vector<std::pair<std::string, int64_t>> memory_parts;  ///< what peak_rss consists of
  std::vector<std::string> notes;                             ///< adaptations, assumptions of the time estimate

  nlohmann::ordered_json to_json() const;
  /// Lines for a terminal: totals, memory, and one line per kind of module.
  std::string to_text() const;
};

/// Statistics that are collected whatever the method: inputs for the output error in the report.
inline constexpr int64_t kReportSamples = 128;

/// What the passes of a recipe need and cost; nullptr for a method that is not registered (resolve has refused it).
class Methods {
 public:
  /// kInvalidArgument: a method or its options.
  static Result<Methods> create(const Recipe& recipe, const Registry& registry, const Resolved& resolved);
  Smoother* smoother() const { return smoother_.get(); }  ///< null: nothing is folded
  Pass& of(const Decision& decision) const { return *passes_.at(decision.method); }
  /// Of a module that will be calibrated: its pass's needs and the report's sample; nothing otherwise.
  calibrate::Needs needs(const Decision& decision) const;

 private:
  std::map<std::string, std::unique_ptr<Pass>> passes_;
  std::unique_ptr<Smoother> smoother_;
  bool corrects_bias_ = false, repairs_ = false;
};

/// kResourceExhausted when nothing fits `max_ram`: the message has the numbers and what takes most.
/// `checkpoint` as in `resolve`: without one, types come from the config.
Result<Plan> make_plan(const Recipe& recipe, const Registry& registry, const Resolved& resolved,
                       const format::Checkpoint* checkpoint, const PlanOptions& options);

/// What this many floating-point operations take on `threads` cores, by the assumption that the plan's notes state.
double estimated_seconds(double flops, int threads);

/// Bytes that a decision's module (weight and bias) takes when written.
int64_t written_bytes(const Decision& decision, const format::Checkpoint* checkpoint);

}  // namespace autoglm::pass
