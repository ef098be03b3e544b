#include "runtime/engine/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "core/base/memory.h"
#include "runtime/engine/weight_reader.h"

namespace autoglm::engine {
namespace {

constexpr int64_t kPageTokens = 16;
// Beside a page: what the pool knows of it, and its tokens, which the pool, a prompt and a sequence may hold.
constexpr int64_t kRemembered = 512 + 4 * kPageTokens * static_cast<int64_t>(sizeof(int32_t));
constexpr int64_t kMaxSequences = 4096;
constexpr int64_t kMaxThreads = 1024;
constexpr int64_t kMaxChunk = 1 << 16;
constexpr int64_t kDecoded = 6;  // bytes of an element of a piece while it is decoded and packed, at most

Status check(std::string_view name, int64_t value, int64_t minimum, int64_t maximum) {
  if (value >= minimum && value <= maximum) return ok_status();
  return invalid_argument(fmt::format("{} is {}, must be from {} to {}", name, value, minimum, maximum));
}

/// Elements of the largest piece of a weight that is decoded at a time.
int64_t largest_piece(const Weights& weights) {
  int64_t largest = 0;
  for (const format::ModuleSpec& module : weights.layout().modules()) {
    largest = std::max(largest, format::element_count(module.shape).value_or(0));
  }
  return std::min(largest, WeightReader::kPieceElements);
}

}  // namespace

Result<int> thread_count(int asked) {
  const int threads = asked != 0 ? asked : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  AUTOGLM_RETURN_IF_ERROR(check("threads", threads, 1, kMaxThreads));
  return threads;
}

kernels::KvLayout kv_layout(const format::ModelConfig& config, kernels::KvType type) {
  return {type, config.num_key_value_heads, config.head_dim, kPageTokens};
}

Result<MemoryPlan> plan_memory(const Weights& weights, EngineOptions& options) {
  const format::ModelConfig& config = weights.config();
  if (options.max_context == 0) options.max_context = config.max_position_embeddings;
  AUTOGLM_RETURN_IF_ERROR(check("max_context", options.max_context, 1, config.max_position_embeddings));
  AUTOGLM_RETURN_IF_ERROR(check("max_sequences", options.max_sequences, 1, kMaxSequences));
  AUTOGLM_ASSIGN_OR_RETURN(options.threads, thread_count(options.threads));
  AUTOGLM_RETURN_IF_ERROR(check("prefill_chunk", options.prefill_chunk, 1, kMaxChunk));
  AUTOGLM_RETURN_IF_ERROR(check("max_ram", options.max_ram, 0, INT64_MAX));
  AUTOGLM_RETURN_IF_ERROR(check("kv_bytes", options.kv_bytes, 0, INT64_MAX));
  AUTOGLM_RETURN_IF_ERROR(check("kv_tokens", options.kv_tokens, 0, INT64_MAX));

  MemoryPlan plan;
  plan.process = current_rss_bytes();
  AUTOGLM_ASSIGN_OR_RETURN(plan.weights, weights.bytes());
  const int64_t batch = std::min(options.prefill_chunk, options.max_sequences * options.max_context);
  const int64_t running =
      Forward::workspace_bytes(config, batch + options.max_sequences, options.max_sequences, options.threads);
  // What choosing a token needs, and remembering those that occurred.
  const int64_t choosing =
      tokenizer::SamplerScratch::bytes(config.vocab_size) + options.max_sequences * config.vocab_size / 8;
  plan.activations =
      std::max(running + choosing, plan.weights.packed > 0 ? options.threads * largest_piece(weights) * kDecoded : 0);

  const int64_t page = KvCache::page_bytes(kv_layout(config, options.kv), config.num_hidden_layers);
  if (page <= 0) return bad_input("config.json describes a key-value cache whose size does not fit in 64 bits");
  int64_t pages = options.max_sequences * ((options.max_context + kPageTokens - 1) / kPageTokens);
  if (options.kv_bytes > 0) {
    if (options.kv_bytes < page) {
      return resource_exhausted(fmt::format("a cache of {} has no room for a page of {} tokens, which takes {}",
                                            format_bytes(options.kv_bytes), kPageTokens, format_bytes(page)));
    }
    pages = std::min(pages, options.kv_bytes / page);
  }
  if (options.kv_tokens > 0) pages = std::min(pages, (options.kv_tokens - 1) / kPageTokens + 1);
  if (options.max_ram > 0) {
    const int64_t left = options.max_ram - plan.total();
    if (left < page + kRemembered) {
      return resource_exhausted(
          fmt::format("at least {} are needed: {} of weights, {} for activations, {} for one page of cache, {} in use; "
                      "the limit is {}",
                      format_bytes(plan.total() + page + kRemembered),
                      format_bytes(plan.weights.packed + plan.weights.mapped), format_bytes(plan.activations),
                      format_bytes(page), format_bytes(plan.process), format_bytes(options.max_ram)));
    }
    pages = std::min(pages, left / (page + kRemembered));
  }
  plan.cache_tokens = pages * kPageTokens;
  int64_t all = 0;
  if (__builtin_mul_overflow(pages, page + kRemembered, &all)) {
    return resource_exhausted(
        "the key-value cache would exceed 64 bits of bytes; give fewer sequences or a shorter "
        "context");
  }
  plan.cache = pages * page;
  plan.activations += pages * kRemembered;
  return plan;
}

}  // namespace autoglm::engine
