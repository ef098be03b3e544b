#include "api/self_text.h"

#include <algorithm>

#include "api/engine.h"
#include "api/texts.h"
#include "compress/calibrate/self_sample.h"
#include "compress/model/generator.h"
#include "core/base/memory.h"

namespace autoglm::api {
namespace {

constexpr uint64_t kCalibrationSeed = 0x63616c6962ULL;  // tells text for calibration from text for verification

// The demo at 3 bits lost on prose, as a multiple of what calibration on prose costs (benchmarks/shift.py), with tokens
// drawn never or every 64, 16, 8, 4, 2: 1.23, 1.19, 1.11, 1.04, 1.03, 1.12. Of the best, the rarest.
constexpr int64_t kFreshEvery = 8;

}  // namespace

int64_t self_text_bytes(const model::Decoder& source, int64_t length) {
  const format::ModelConfig& config = source.config();
  const auto element = static_cast<int64_t>(c10::elementSize(source.options().compute));
  const int64_t batch = calibrate::SelfSampleOptions().batch;
  const int64_t cache = batch * 2 * length * config.num_hidden_layers * 2 * config.num_key_value_heads *
                        config.head_dim * element;  // grows by doubling
  return model::Generator::weight_bytes(source) + cache + 4 * batch * config.vocab_size * int64_t{4};
}

Result<std::vector<eval::Tokens>> write_self_text(const model::Decoder& source, const tokenizer::Tokenizer& tokenizer,
                                                  const SelfText& wanted, CancelToken& cancel) {
  const int64_t free = std::max<int64_t>(1, memory_limit(wanted.max_ram) - current_rss_bytes());
  AUTOGLM_ASSIGN_OR_RETURN(auto generator, model::Generator::create(source, free, &cancel));
  return calibrate::self_sample(generator,
                                {.count = wanted.sequences,
                                 .length = wanted.length,
                                 .seed = wanted.seed ^ kCalibrationSeed,
                                 .fresh_every = kFreshEvery,
                                 .start = start_of_text(tokenizer)},
                                cancel);
}

}  // namespace autoglm::api
