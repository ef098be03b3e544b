#include "compress/calibrate/self_sample.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <random>

#include "compress/tensor/bridge.h"
#include "core/base/progress.h"
#include "core/eval/dataset.h"
#include "core/tokenizer/sampler.h"

namespace autoglm::calibrate {
namespace {

/// One batch; each sequence has a sampler and a source of evenly drawn tokens of its own, so that batches do not
/// matter.
Status sample_batch(model::Generator& generator, const SelfSampleOptions& options, std::vector<eval::Tokens>& sequences,
                    std::vector<tokenizer::Sampler>& samplers, std::vector<std::mt19937_64>& even,
                    CancelToken& cancel) {
  const auto already = static_cast<int64_t>(sequences.front().size());
  if (already >= options.length) return ok_status();
  AUTOGLM_ASSIGN_OR_RETURN(at::Tensor logits, generator.prefill(sequences, &cancel));
  tokenizer::SamplerScratch scratch;
  for (int64_t at = already; at < options.length; ++at) {
    AUTOGLM_RETURN_IF_ERROR(cancel.check());
    const at::Tensor rows = logits.cpu().contiguous();
    std::vector<int32_t> next;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const auto width = static_cast<size_t>(rows.size(1));
      AUTOGLM_ASSIGN_OR_RETURN(int32_t token, samplers[i].sample({rows.data_ptr<float>() + i * width, width}, scratch));
      if (options.fresh_every > 0 && (at - already) % options.fresh_every == options.fresh_every - 1) {
        token = static_cast<int32_t>(even[i]() % width);
      }
      sequences[i].push_back(token);
      next.push_back(token);
    }
    if (at + 1 == options.length) break;
    AUTOGLM_ASSIGN_OR_RETURN(logits, generator.step(next, &cancel));
  }
  return ok_status();
}

}  // namespace

void shorten(SelfSampleOptions& options, double step_seconds, double seconds) {
  const auto begun = static_cast<int64_t>(options.start.size()) + 1;
  const auto takes = [&] {
    const int64_t batches = (options.count + options.batch - 1) / options.batch;
    return step_seconds * static_cast<double>((options.length - begun) * batches);
  };
  while (takes() > seconds && options.count > options.batch) options.count = std::max(options.count / 2, options.batch);
  while (takes() > seconds && options.length / 2 >= std::max(eval::kShortestSequence, begun + 1)) options.length /= 2;
}

Result<std::vector<eval::Tokens>> self_sample(model::Generator& generator, const SelfSampleOptions& options,
                                              CancelToken& cancel) {
  if (options.count < 1 || options.batch < 1 || options.length <= static_cast<int64_t>(options.start.size())) {
    return invalid_argument("self-sampling needs at least one sequence, longer than what it starts with");
  }
  return tensor::guarded([&]() -> Result<std::vector<eval::Tokens>> {
    const auto vocabulary = static_cast<uint64_t>(generator.decoder().config().vocab_size);
    std::vector<eval::Tokens> all;
    Progress progress("sampling text from the model", options.count);
    for (int64_t first = 0; first < options.count; first += options.batch) {
      std::vector<eval::Tokens> sequences;
      std::vector<tokenizer::Sampler> samplers;
      std::vector<std::mt19937_64> even;
      for (int64_t i = first; i < std::min(first + options.batch, options.count); ++i) {
        const uint64_t seed = options.seed * 0x9E3779B97F4A7C15u + static_cast<uint64_t>(i);
        sequences.push_back(options.start);
        sequences.back().push_back(static_cast<int32_t>(even.emplace_back(seed)() % vocabulary));
        AUTOGLM_ASSIGN_OR_RETURN(tokenizer::Sampler sampler,
                                 tokenizer::Sampler::create({.temperature = options.temperature, .seed = ~seed},
                                                            static_cast<int64_t>(vocabulary)));
        samplers.push_back(std::move(sampler));
      }
      AUTOGLM_RETURN_IF_ERROR(sample_batch(generator, options, sequences, samplers, even, cancel));
      for (eval::Tokens& sequence : sequences) all.push_back(std::move(sequence));
      progress.update(static_cast<int64_t>(all.size()));
    }
    return all;
  });
}

}  // namespace autoglm::calibrate
