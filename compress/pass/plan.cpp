#include "compress/pass/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "compress/calibrate/statistics_file.h"
#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/format/quantized_weight.h"

namespace autoglm::pass {
namespace {

using format::ModelConfig;
using format::Role;
using format::Stage;

// Assumptions of the time estimate, stated in the plan: measured on ordinary server cores, halved.
constexpr double kFlopsPerThread = 40e9;  // float32 matrix products with AVX2 or better
constexpr double kDiskBytesPerSecond = 500e6;

// What LibTorch keeps beside tensors: thread pools, MKL's packing buffers, allocator slack. Measured 30 to 70 MB.
constexpr int64_t kRuntimeBytes = 80 << 20;
constexpr int64_t kStagingBytes = 16 << 20;  // file pages and conversion buffers while a weight is read
constexpr int64_t kBatchTokens = 1024;
constexpr double kShareOfKeptInputs = 0.75;              // of the states' bytes: a sixth of the time for it
constexpr int64_t kExpertStatistics = int64_t{2} << 30;  // statistics of experts at once, where nothing else decides

int64_t elements(const format::Shape& shape) { return format::element_count(shape).value_or(0); }

int64_t bias_bytes(const Decision& decision, const format::Checkpoint* checkpoint) {
  if (!decision.module.has_bias) return 0;
  const format::TensorInfo* stored = checkpoint != nullptr ? checkpoint->find(decision.source.bias_name()) : nullptr;
  const bool whole = decision.scheme && decision.scheme->cast && decision.module.role != Role::kRouterCorrection;
  const format::DType dtype = whole               ? *decision.scheme->cast
                              : stored != nullptr ? stored->dtype
                                                  : decision.source_dtype;
  return decision.module.shape[0] * format::size_of(dtype);
}

int64_t source_bytes(const Decision& decision, const format::Checkpoint* checkpoint) {
  const format::TensorInfo* bias =
      checkpoint != nullptr && decision.module.has_bias ? checkpoint->find(decision.source.bias_name()) : nullptr;
  const int64_t bias_count = decision.module.has_bias ? decision.module.shape[0] : 0;
  return elements(decision.module.shape) * format::size_of(decision.source_dtype) +
         bias_count * format::size_of(bias != nullptr ? bias->dtype : decision.source_dtype);
}

/// int8 values, float scales and zero points of a result in memory, and its encoded form beside them.
int64_t result_bytes(const Decision& decision) {
  if (!decision.scheme) return 0;
  const int64_t count = elements(decision.module.shape);
  if (decision.scheme->cast) return count * format::size_of(*decision.scheme->cast);
  const int64_t groups = decision.scheme->weights.groups(decision.module.shape[1]);
  return count + decision.module.shape[0] * groups * 5;
}

/// Linears of one stage share an input: true for the one whose rows it is read with first.
bool begins_input(Role role) {
  return role != Role::kK && role != Role::kV && role != Role::kUp && role != Role::kExpertUp &&
         role != Role::kSharedUp;
}

struct Part {
  std::string name;
  int64_t bytes;
};
using Parts = std::vector<Part>;

int64_t total(const Parts& parts) {
  int64_t sum = 0;
  for (const Part& part : parts) sum += part.bytes;
  return sum;
}

/// The memory of each phase of a run, from the sizes of the model.
class MemoryModel {
 public:
  MemoryModel(const Resolved& resolved, const Methods& methods, const format::Checkpoint* checkpoint,
              const PlanOptions& options)
      : resolved_(resolved), methods_(methods), checkpoint_(checkpoint), options_(options) {
    calibrated_ = methods.smoother() != nullptr;
    for (const Decision& decision : resolved.decisions) {
      if (decision.module.layer >= 0) blocks_[decision.module.layer].push_back(&decision);
      const calibrate::Needs needs = methods.needs(decision);
      if (needs.any()) calibrated_ = true;
      if (needs.drift && decision.module.layer >= 0) compares_with_source_ = true;
      if (needs.any() && decision.module.role == Role::kO) o_width_ = last(decision);
      if (needs.any() && decision.module.role == Role::kDown) down_width_ = last(decision);
    }
  }

  bool calibrated() const { return calibrated_; }
  bool compares_with_source() const { return compares_with_source_; }
  int64_t tokens() const { return options_.sequences * options_.length; }
  int64_t element() const { return static_cast<int64_t>(c10::elementSize(options_.compute)); }
  int64_t hidden_state_bytes() const { return tokens() * resolved_.config.hidden_size * element(); }
  /// Of the states that a run carries, of the compressed model and (where wanted) of the source.
  int64_t held_state_bytes(const MemoryUse& use) const {
    return use.copies() * std::min(use.state_bytes, hidden_state_bytes());
  }
  /// Inputs of o, and of down of dense MLPs, of all calibration tokens; 0 where they are not calibrated.
  int64_t o_input_bytes() const { return tokens() * o_width_ * element(); }
  int64_t down_input_bytes() const { return tokens() * down_width_ * element(); }
  int64_t shortest_batch() const { return std::max<int64_t>(1, options_.length); }

  /// Statistics of one input of the largest kind: what cannot be split further.
  int64_t largest_statistics() const { return statistics_needed(false); }
  /// Statistics of the stage that needs most, all at once.
  int64_t stage_statistics() const { return statistics_needed(true); }

  Parts peak(const MemoryUse& use) const {
    Parts best = streaming_phase(use);
    if (use.streaming) return best;
    for (const Parts& phase : {smoothing_phase(use), block_phase(use), head_phase(use)}) {
      if (total(phase) > total(best)) best = phase;
    }
    return best;
  }

 private:
  /// The largest single tensor on its way: copied from mapped pages, or rounded in pieces, while the one before it is
  /// on its way to the file.
  Parts streaming_phase(const MemoryUse& use) const {
    Parts best;
    int64_t before = 0;
    for (const Decision& decision : resolved_.decisions) {
      if (methods_.needs(decision).any() || (calibrated_ && decision.module.layer >= 0)) continue;
      Parts parts;
      if (decision.scheme) {
        parts = {{"the largest tensor, rounded", result_bytes(decision)},
                 {"the same, packed for the file", written_bytes(decision, checkpoint_)},
                 {"working memory",
                  methods_.of(decision).working_bytes(decision.module.shape[0], last(decision)) + kStagingBytes}};
      } else {
        parts = {{"file pages", decision.splits() ? source_bytes(decision, checkpoint_) : kStagingBytes}};
      }
      const int64_t written = decision.scheme ? parts[0].bytes + parts[1].bytes : parts[0].bytes;
      if (use.streaming && use.overlap && before > 0) parts.push_back({"the tensor before it, being written", before});
      before = written;
      if (total(parts) > total(best)) best = parts;
    }
    return best;
  }

  static int64_t last(const Decision& decision) { return decision.module.shape.back(); }

  /// The largest block, in the type in which blocks are run.
  int64_t block_bytes() const {
    int64_t most = 0;
    for (const auto& [layer, block] : blocks_) {
      int64_t bytes = 0;
      for (const Decision* decision : block) {
        const bool routing = decision->module.role == Role::kRouter;
        bytes += elements(decision->module.shape) * (routing ? 4 : element());
      }
      most = std::max(most, bytes);
    }
    return most;
  }

  /// Activations of a batch on their way through a block.
  int64_t batch_bytes(const MemoryUse& use) const {
    const ModelConfig& config = resolved_.config;
    const int64_t mlp = std::max(config.intermediate_size, config.moe_intermediate_size * config.num_experts_per_tok);
    const int64_t heads = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim;
    return use.batch_tokens * element() * (4 * config.hidden_size + std::max(4 * mlp, 3 * heads));
  }

  /// What is in memory all the time while blocks are compressed.
  Parts held_parts(const MemoryUse& use) const {
    Parts parts = {{"one block", block_bytes()}, {"hidden states", held_state_bytes(use)}};
    if (use.source_states) parts.push_back({"the same block of the source", block_bytes()});
    if (use.kept_input_bytes > 0) parts.push_back({"inputs of o or down", use.kept_input_bytes});
    parts.push_back({"statistics for the artifact", kept_statistics()});
    return parts;
  }

  int64_t kept_statistics() const {
    int64_t bytes = 0;
    for (const Decision& decision : resolved_.decisions) {
      if (!methods_.needs(decision).any() || !begins_input(decision.module.role)) continue;
      bytes += calibrate::StatisticsFile::bytes(last(decision), decision.module.expert >= 0);
    }
    return bytes;
  }

  /// Statistics of every input of a block together; then scales are tried, one consumer at a time.
  Parts smoothing_phase(const MemoryUse& use) const {
    const Smoother* smoother = methods_.smoother();
    if (smoother == nullptr) return {};
    int64_t statistics = 0, working = 0;
    for (const auto& [layer, block] : blocks_) {
      int64_t bytes = 0;
      for (const Decision* decision : block) {
        if (!decision->is_quantized()) continue;
        if (begins_input(decision->module.role)) {
          bytes += calibrate::statistics_bytes(smoother->needs(), last(*decision));
        }
        working = std::max(working, smoother->working_bytes(decision->module.shape[0], last(*decision)));
      }
      statistics = std::max(statistics, bytes);
    }
    Parts parts = held_parts(use);
    parts.push_back({"statistics for smoothing", statistics});
    parts.push_back(working > batch_bytes(use) ? Part{"working memory", working}
                                               : Part{"activations of a batch", batch_bytes(use)});
    return parts;
  }

  Parts block_phase(const MemoryUse& use) const {
    int64_t results = 0, working = 0, packed = 0;
    for (const auto& [layer, block] : blocks_) {
      std::map<Stage, int64_t> stage_results;
      for (const Decision* decision : block) {
        const auto stage = format::stage_of(decision->module.role);
        if (!stage || !decision->is_quantized()) continue;
        stage_results[*stage] += result_bytes(*decision);
        packed = std::max(packed, written_bytes(*decision, checkpoint_));
        working = std::max(working, methods_.of(*decision).working_bytes(decision->module.shape[0], last(*decision)));
      }
      for (const auto& [stage, held] : stage_results) results = std::max(results, held);
    }
    const int64_t activations = batch_bytes(use);
    const int64_t statistics = std::min(use.statistics_bytes, stage_statistics());
    // While a pass works, no batch is run; while statistics are collected, nothing is rounded yet.
    Parts parts = held_parts(use);
    parts.push_back({"calibration statistics", statistics});
    if (results + working + packed > activations) {
      parts.push_back({"rounded weights", results + packed});
      parts.push_back({"working memory", working});
    } else {
      parts.push_back({"activations of a batch", activations});
    }
    return parts;
  }

  Parts head_phase(const MemoryUse& use) const {
    for (const Decision& decision : resolved_.decisions) {
      if (decision.module.role != Role::kHead || !methods_.needs(decision).any()) continue;
      Parts parts = {{"hidden states", held_state_bytes(use)},
                     {"statistics for the artifact", kept_statistics()},
                     {"calibration statistics", calibrate::statistics_bytes(methods_.needs(decision), last(decision))},
                     {"the head, rounded", result_bytes(decision)},
                     {"the same, packed for the file", written_bytes(decision, checkpoint_)},
                     {"working memory",
                      methods_.of(decision).working_bytes(decision.module.shape[0], last(decision)) + kStagingBytes}};
      return parts;
    }
    return {};
  }

  /// Over all stages, the sum over its inputs or the largest of them.
  int64_t statistics_needed(bool sum) const {
    int64_t most = 0;
    for (const auto& [layer, block] : blocks_) {
      std::map<std::tuple<Stage, int64_t, bool>, int64_t> inputs;  // one input: stage, expert, shared expert
      for (const Decision* decision : block) {
        const auto stage = format::stage_of(decision->module.role);
        if (!stage) continue;
        const Role role = decision->module.role;
        const bool shared = role == Role::kSharedGate || role == Role::kSharedUp || role == Role::kSharedDown;
        int64_t& bytes = inputs[{*stage, decision->module.expert, shared}];
        bytes = std::max(bytes, calibrate::statistics_bytes(methods_.needs(*decision), last(*decision)));
      }
      std::map<Stage, int64_t> stages;
      for (const auto& [input, bytes] : inputs) {
        int64_t& stage = stages[std::get<0>(input)];
        stage = sum ? stage + bytes : std::max(stage, bytes);
      }
      for (const auto& [stage, bytes] : stages) most = std::max(most, bytes);
    }
    return most;
  }

  const Resolved& resolved_;
  const Methods& methods_;
  const format::Checkpoint* checkpoint_;
  const PlanOptions& options_;
  std::map<int64_t, std::vector<const Decision*>> blocks_;
  bool calibrated_ = false, compares_with_source_ = false;
  int64_t o_width_ = 0, down_width_ = 0;
};

/// Gives up comfort in steps, cheapest first, until the peak fits.
MemoryUse fit_memory(const MemoryModel& model, int64_t available, std::vector<std::string>& notes) {
  MemoryUse use;
  use.streaming = !model.calibrated();
  if (use.streaming) {
    use.overlap = available <= 0 || total(model.peak(use)) <= available;
    return use;
  }
  const int64_t largest = model.largest_statistics();
  use.batch_tokens = std::max(kBatchTokens, model.shortest_batch());
  use.state_bytes = model.hidden_state_bytes();
  use.source_states = model.compares_with_source();
  use.statistics_bytes = std::max(largest, std::min(model.stage_statistics(), kExpertStatistics));
  use.kept_input_bytes = std::min(std::max(model.o_input_bytes(), model.down_input_bytes()),
                                  static_cast<int64_t>(kShareOfKeptInputs * static_cast<double>(use.state_bytes)));
  const auto excess = [&] { return available > 0 ? total(model.peak(use)) - available : 0; };
  const auto fits = [&] { return excess() <= 0; };
  if (!fits()) use.kept_input_bytes = std::max<int64_t>(0, use.kept_input_bytes - excess());
  if (!fits()) use.batch_tokens = std::min(use.batch_tokens, model.shortest_batch());
  if (!fits()) use.statistics_bytes = largest;
  if (!fits()) {
    const int64_t over = (excess() + use.copies() - 1) / use.copies();
    use.state_bytes = std::max<int64_t>(0, use.state_bytes - over);
    notes.push_back(fmt::format("{} of calibration states go to disk",
                                format_bytes(use.copies() * (model.hidden_state_bytes() - use.state_bytes))));
  }
  return use;
}

double estimate_seconds(const Resolved& resolved, const Methods& methods, const MemoryModel& model, const Plan& plan,
                        const PlanOptions& options) {
  double flops = 0;
  const auto tokens = static_cast<double>(model.tokens());
  const auto kept_share = [&](int64_t bytes) {
    return bytes > 0 ? std::min(1.0, static_cast<double>(plan.memory.kept_input_bytes) / static_cast<double>(bytes))
                     : 0;
  };
  for (const Decision& decision : resolved.decisions) {
    if (decision.module.shape.size() != 2) continue;
    const int64_t rows = decision.module.shape[0], cols = decision.module.shape[1];
    if (decision.scheme) flops += methods.of(decision).flops(rows, cols);
    if (!model.calibrated() || decision.module.layer < 0) continue;
    const double routed = decision.module.expert < 0 ? 1.0
                                                     : static_cast<double>(resolved.config.num_experts_per_tok) /
                                                           static_cast<double>(resolved.config.n_routed_experts);
    const auto stage = format::stage_of(decision.module.role);
    // Collecting what follows, and going on; of the model and, where it is compared with, the source.
    const double passes = stage == Stage::kQkv || stage == Stage::kGateUp ? 2 : 1;
    const Role role = decision.module.role;
    const bool enters_down = role == Role::kGate || role == Role::kUp || role == Role::kGateUp;
    const double saved = stage == Stage::kQkv ? kept_share(model.o_input_bytes())
                         : enters_down        ? kept_share(model.down_input_bytes())
                                              : 0;
    flops += 2 * tokens * routed * (passes * static_cast<double>(plan.memory.copies()) - saved) *
             static_cast<double>(rows * cols);
    if (const Smoother* smoother = methods.smoother()) {
      flops += 2 * tokens * routed * static_cast<double>(rows * cols);  // observing
      if (decision.is_quantized()) flops += smoother->flops(rows, cols);
    }
    const bool first = begins_input(decision.module.role);
    const calibrate::Needs needs = methods.needs(decision);
    if (first && needs.hessian) flops += tokens * routed * static_cast<double>(cols * cols);
    if (first && needs.drift) flops += 2 * tokens * static_cast<double>(cols * cols);
  }
  const double disk = static_cast<double>(plan.bytes_before + plan.bytes_after) / kDiskBytesPerSecond;
  return estimated_seconds(flops, options.threads) + disk;
}

/// "model.layers.3.mlp" -> "model.layers.*.mlp".
std::string without_numbers(std::string_view name) {
  std::string out;
  for (size_t i = 0; i < name.size(); ++i) {
    const auto is_digit = [&](size_t at) { return at < name.size() && name[at] >= '0' && name[at] <= '9'; };
    out += name[i];
    if (name[i] != '.' || !is_digit(i + 1)) continue;
    out += '*';
    while (is_digit(i + 1)) ++i;
  }
  return out;
}

int64_t count_shards(const Resolved& resolved, const format::Checkpoint* checkpoint, int64_t limit) {
  int64_t shards = 1, used = 0;
  const auto put = [&](int64_t bytes) {
    if (used > 0 && used + bytes > limit) {
      ++shards;
      used = 0;
    }
    used += bytes;
  };
  for (const Decision& decision : resolved.decisions) put(written_bytes(decision, checkpoint));
  for (const std::string& name : resolved.others) put(checkpoint->find(name)->nbytes);
  return shards;
}

}  // namespace

Result<Methods> Methods::create(const Recipe& recipe, const Registry& registry, const Resolved& resolved) {
  Methods out;
  out.corrects_bias_ = recipe.bias_correction;
  out.repairs_ = recipe.repair > 0;
  for (const Decision& decision : resolved.decisions) {
    if (decision.method.empty() || out.passes_.contains(decision.method)) continue;
    const auto options = recipe.methods.find(decision.method);
    AUTOGLM_ASSIGN_OR_RETURN(
        out.passes_[decision.method],
        registry.make(decision.method, options == recipe.methods.end() ? nlohmann::json() : *options));
  }
  if (!resolved.smoother.empty()) {
    const auto options = recipe.methods.find(resolved.smoother);
    AUTOGLM_ASSIGN_OR_RETURN(
        out.smoother_,
        registry.make_smoother(resolved.smoother, options == recipe.methods.end() ? nlohmann::json() : *options));
  }
  return out;
}

calibrate::Needs Methods::needs(const Decision& decision) const {
  if (!decision.is_quantized()) return {};
  calibrate::Needs needs = of(decision).needs();
  const bool is_table = decision.module.role == format::Role::kEmbedding;
  if (is_table || (!needs.any() && !decision.scheme->calibrates_input() && !repairs_)) return needs;
  needs.summary = true;
  needs.sample_tokens = std::max(needs.sample_tokens, kReportSamples);
  // A Hessian is not centred: methods that work by it weigh the mean error already (and against drift, they want
  // another mean than W E[x]), so that a bias is corrected there only to repair.
  if (decision.module.has_bias && corrects_bias_ && (!needs.hessian || repairs_)) needs.moments = true;
  return needs;
}

double estimated_seconds(double flops, int threads) { return flops / (kFlopsPerThread * std::max(1, threads)); }

int64_t written_bytes(const Decision& decision, const format::Checkpoint* checkpoint) {
  const int64_t bias = bias_bytes(decision, checkpoint);
  const int64_t count = elements(decision.module.shape);
  if (!decision.scheme) return bias + count * format::size_of(decision.source_dtype);
  if (decision.scheme->cast) return bias + count * format::size_of(*decision.scheme->cast);
  int64_t bytes = bias;
  for (const format::TensorInfo& tensor :
       format::stored_layout(decision.scheme->weights, decision.module.shape, decision.scale_dtype,
                             decision.module.name, decision.scheme->format())) {
    bytes += tensor.nbytes;
  }
  if (decision.scheme->calibrates_input()) bytes += format::size_of(decision.scale_dtype);
  return bytes;
}

Result<Plan> make_plan(const Recipe& recipe, const Registry& registry, const Resolved& resolved,
                       const format::Checkpoint* checkpoint, const PlanOptions& options) {
  AUTOGLM_ASSIGN_OR_RETURN(const Methods methods, Methods::create(recipe, registry, resolved));
  Plan plan;
  plan.notes = resolved.notes;
  for (const Decision& decision : resolved.decisions) {
    PlannedModule module;
    module.name = decision.module.name;
    module.scheme = decision.scheme ? decision.scheme->to_string() : "keep";
    module.method = decision.method;
    module.parameters = elements(decision.module.shape) + (decision.module.has_bias ? decision.module.shape[0] : 0);
    module.bytes_before = source_bytes(decision, checkpoint);
    module.bytes_after = written_bytes(decision, checkpoint);
    plan.bytes_before += module.bytes_before;
    plan.bytes_after += module.bytes_after;
    plan.modules.push_back(std::move(module));
  }
  for (const std::string& name : resolved.others) plan.other_bytes += checkpoint->find(name)->nbytes;
  plan.bytes_before += plan.other_bytes;
  plan.bytes_after += plan.other_bytes;
  plan.shards = count_shards(resolved, checkpoint, options.max_shard_bytes);

  const MemoryModel model(resolved, methods, checkpoint, options);
  const int64_t baseline = current_rss_bytes() + kRuntimeBytes;
  plan.memory =
      fit_memory(model, options.max_ram > 0 ? std::max<int64_t>(1, options.max_ram - baseline) : 0, plan.notes);
  plan.memory_parts = {{"the program itself", baseline}};
  for (const Part& part : model.peak(plan.memory)) plan.memory_parts.emplace_back(part.name, part.bytes);
  for (const auto& [name, bytes] : plan.memory_parts) plan.peak_rss += bytes;
  const int64_t spilled =
      plan.memory.streaming
          ? 0
          : plan.memory.copies() * std::max<int64_t>(0, model.hidden_state_bytes() - plan.memory.state_bytes);
  // Finished blocks stand in the journal too until the end.
  plan.disk_bytes = plan.bytes_after * (plan.memory.streaming ? 1 : 2) + spilled;
  plan.seconds = estimate_seconds(resolved, methods, model, plan, options);
  plan.notes.push_back(fmt::format(
      "time assumes {:.0f} GFLOP/s on each of {} threads and a disk of {:.0f} MB/s; verification not included",
      kFlopsPerThread / 1e9, std::max(1, options.threads), kDiskBytesPerSecond / 1e6));
  if (options.max_ram > 0 && plan.peak_rss > options.max_ram) {
    const auto most = std::max_element(plan.memory_parts.begin(), plan.memory_parts.end(),
                                       [](const auto& a, const auto& b) { return a.second < b.second; });
    return resource_exhausted(fmt::format(
        "this needs {} of memory, of which {} for {}, but --max-ram allows {}; {}", format_bytes(plan.peak_rss),
        format_bytes(most->second), most->first, format_bytes(options.max_ram),
        plan.memory.streaming ? "allow more" : "use --method rtn, which needs no calibration, or allow more"));
  }
  return plan;
}

nlohmann::ordered_json Plan::to_json() const {
  nlohmann::ordered_json out;
  out["bytes_before"] = bytes_before;
  out["bytes_after"] = bytes_after;
  out["other_bytes"] = other_bytes;
  out["shards"] = shards;
  out["disk_bytes"] = disk_bytes;
  out["peak_rss_bytes"] = peak_rss;
  out["seconds"] = seconds;
  out["memory"] = nlohmann::ordered_json::object();
  for (const auto& [name, bytes] : memory_parts) out["memory"][name] = bytes;
  out["notes"] = notes;
  out["modules"] = nlohmann::ordered_json::array();
  for (const PlannedModule& module : modules) {
    out["modules"].push_back({{"name", module.name},
                              {"scheme", module.scheme},
                              {"method", module.method},
                              {"parameters", module.parameters},
                              {"bytes_before", module.bytes_before},
                              {"bytes_after", module.bytes_after}});
  }
  return out;
}

std::string Plan::to_text() const {
  // Modules that differ in their layer and expert alone are one line.
  std::vector<std::pair<std::string, PlannedModule>> kinds;
  std::map<std::string, size_t> places, counts;
  for (const PlannedModule& module : modules) {
    const std::string kind = without_numbers(module.name);
    const std::string key = fmt::format("{} {} {}", kind, module.scheme, module.method);
    const auto [place, inserted] = places.try_emplace(key, kinds.size());
    if (inserted) kinds.emplace_back(kind, PlannedModule{kind, module.scheme, module.method, 0, 0, 0});
    PlannedModule& sum = kinds[place->second].second;
    sum.parameters += module.parameters;
    sum.bytes_before += module.bytes_before;
    sum.bytes_after += module.bytes_after;
    ++counts[key];
  }
  std::string out;
  for (const auto& [kind, sum] : kinds) {
    const size_t count = counts.at(fmt::format("{} {} {}", kind, sum.scheme, sum.method));
    out += fmt::format("{:<48} {:>6}x  {:<16} {:<6} {:>10} -> {}\n", kind, count, sum.scheme, sum.method,
                       format_bytes(sum.bytes_before), format_bytes(sum.bytes_after));
  }
  if (other_bytes > 0)
    out += fmt::format("{:<48} {:>6}   {:<16} {:<6} {:>10}\n", "other tensors", "", "carried over", "",
                       format_bytes(other_bytes));
  out += fmt::format("size: {} -> {} in {} file{}; disk needed: {}\n", format_bytes(bytes_before),
                     format_bytes(bytes_after), shards, shards == 1 ? "" : "s", format_bytes(disk_bytes));
  out += fmt::format("peak memory: {} (", format_bytes(peak_rss));
  for (size_t i = 0; i < memory_parts.size(); ++i) {
    out += fmt::format("{}{} {}", i == 0 ? "" : ", ", memory_parts[i].first, format_bytes(memory_parts[i].second));
  }
  out += fmt::format(")\ntime: about {}\n", format_duration(seconds));
  for (const std::string& note : notes) out += "note: " + note + "\n";
  return out;
}

}  // namespace autoglm::pass
