#include <autoglm/generate.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "api/engine.h"
#include "api/model_source.h"
#include "compress/model/generator.h"
#include "compress/tensor/bridge.h"
#include "core/base/memory.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/sampler.h"
#include "core/tokenizer/tokenizer.h"

namespace autoglm {
namespace {

Result<std::string> render_prompt(const GenerateOptions& options, const std::filesystem::path& folder) {
  if (options.raw) return options.prompt;
  AUTOGLM_ASSIGN_OR_RETURN(const auto chat, tokenizer::ChatTemplate::load(folder));
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  if (!options.system.empty()) messages.push_back({{"role", "system"}, {"content", options.system}});
  messages.push_back({{"role", "user"}, {"content", options.prompt}});
  return chat.render({{"messages", messages}, {"add_generation_prompt", true}});
}

Status check(const GenerateOptions& options) {
  if (options.max_new_tokens < 1) return invalid_argument("--max-new-tokens must be at least 1");
  if (options.prompt.empty()) return invalid_argument("the prompt is empty; give --prompt or standard input");
  return ok_status();
}

Result<GenerateOutcome> run(const GenerateOptions& options, const std::function<void(const std::string&)>& on_text,
                            CancelToken& cancel) {
  AUTOGLM_RETURN_IF_ERROR(check(options));
  api::use_threads(options.threads);
  AUTOGLM_ASSIGN_OR_RETURN(const auto folder, api::find_model(options.model, cancel));
  AUTOGLM_ASSIGN_OR_RETURN(const auto engine, api::decoder_options(options.device, options.compute));
  AUTOGLM_ASSIGN_OR_RETURN(const auto decoder, model::Decoder::open(folder, engine));
  const tokenizer::SamplerOptions how{
      .temperature = options.temperature, .top_k = options.top_k, .top_p = options.top_p, .seed = options.seed};
  AUTOGLM_ASSIGN_OR_RETURN(auto sampler, tokenizer::Sampler::create(how, decoder.config().vocab_size));
  AUTOGLM_ASSIGN_OR_RETURN(const auto tokenizer, tokenizer::Tokenizer::load(folder));
  AUTOGLM_ASSIGN_OR_RETURN(const std::string text, render_prompt(options, folder));
  const std::vector<int32_t> prompt = tokenizer->encode(text);
  if (prompt.empty()) return invalid_argument("the prompt has no tokens");

  const int64_t limit = api::memory_limit(options.max_ram) - current_rss_bytes();
  AUTOGLM_ASSIGN_OR_RETURN(auto generator, model::Generator::create(decoder, std::max<int64_t>(limit, 1), &cancel));
  const auto& stop = decoder.config().eos_token_ids;
  tokenizer::StreamDecoder stream(*tokenizer);
  tokenizer::SamplerScratch scratch;
  GenerateOutcome outcome;
  outcome.prompt_tokens = static_cast<int64_t>(prompt.size());
  const auto emit = [&](const std::string& piece) {
    outcome.text += piece;
    if (on_text && !piece.empty()) on_text(piece);
  };

  const auto start = std::chrono::steady_clock::now();
  AUTOGLM_ASSIGN_OR_RETURN(at::Tensor logits, generator.prefill({prompt}, &cancel));
  while (true) {
    const at::Tensor row = logits[0].cpu().contiguous();
    AUTOGLM_ASSIGN_OR_RETURN(const int32_t token,
                             sampler.sample({row.data_ptr<float>(), static_cast<size_t>(row.numel())}, scratch));
    if (std::find(stop.begin(), stop.end(), token) != stop.end()) break;
    emit(stream.push(token));
    if (++outcome.new_tokens == options.max_new_tokens) break;
    AUTOGLM_RETURN_IF_ERROR(cancel.check());
    AUTOGLM_ASSIGN_OR_RETURN(logits, generator.step({&token, 1}, &cancel));
  }
  emit(stream.finish());
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

}  // namespace

Result<GenerateOutcome> generate(const GenerateOptions& options, const std::function<void(const std::string&)>& on_text,
                                 CancelToken& cancel) {
  return tensor::guarded([&] { return run(options, on_text, cancel); });
}

}  // namespace autoglm
