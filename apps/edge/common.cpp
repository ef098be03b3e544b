#include "apps/edge/common.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdio>

#include "core/base/cancel.h"
#include "core/base/suggest.h"

namespace autoglm::edge {

void add_model_options(CLI::App& app, ModelOptions& options) {
  app.add_option("model,--model-path", options.model, "model folder");
  app.add_option("--threads", options.engine.threads, "0: all cores")->capture_default_str();
  cli::add_bytes(app, "--max-ram", options.engine.max_ram, "what the process may occupy, for example 4G");
  app.add_option("--context", options.engine.max_context, "tokens of a sequence at most; 0: what the model allows")
      ->capture_default_str();
  app.add_option("--compute", options.compute, "float, or int8: inputs of quantized layers rounded to 8 bits, faster")
      ->capture_default_str();
  app.add_option("--kv", options.kv, "cache of keys and values: fp16, or int8, half as large")->capture_default_str();
  cli::add_bytes(app, "--kv-size", options.engine.kv_bytes,
                 "what that cache may occupy, for example 512M; without, what all sequences together may need");
}

Status resolve(ModelOptions& options) {
  const std::vector<std::string> computes = {"float", "int8"}, kvs = {"fp16", "int8"};
  if (options.model.empty()) return invalid_argument("name a model folder");
  if (options.compute != "float" && options.compute != "int8") {
    return invalid_argument(unknown_word("--compute", options.compute, computes));
  }
  if (options.kv != "fp16" && options.kv != "int8") return invalid_argument(unknown_word("--kv", options.kv, kvs));
  options.engine.compute = options.compute == "int8" ? kernels::Compute::kInt8 : kernels::Compute::kFloat;
  options.engine.kv = options.kv == "int8" ? kernels::KvType::kInt8 : kernels::KvType::kF16;
  return ok_status();
}

Result<Loaded> load(ModelOptions options) {
  AUTOGLM_RETURN_IF_ERROR(resolve(options));
  const Stopwatch watch;
  Loaded loaded;
  AUTOGLM_ASSIGN_OR_RETURN(loaded.tokenizer, tokenizer::Tokenizer::load(options.model));
  AUTOGLM_ASSIGN_OR_RETURN(loaded.engine, engine::Engine::create(options.model, loaded.tokenizer.get(), options.engine,
                                                                 &CancelToken::global()));
  loaded.seconds = watch.seconds();
  return loaded;
}

void add_answer_options(CLI::App& app, AnswerOptions& options) {
  app.add_option("--system", options.system, "system message");
  app.add_option("-n,--max-new-tokens", options.max_new_tokens, "tokens at most")->capture_default_str();
  app.add_option("--temperature", options.sampler.temperature, "0: greedy")->capture_default_str();
  app.add_option("--top-k", options.sampler.top_k, "0: all")->capture_default_str();
  app.add_option("--top-p", options.sampler.top_p, "probability mass that is kept")->capture_default_str();
  app.add_option("--min-p", options.sampler.min_p, "least probability, as a share of the likeliest token's")
      ->capture_default_str();
  app.add_option("--repetition-penalty", options.sampler.repetition_penalty, "of tokens that occurred; 1: none")
      ->capture_default_str();
  app.add_option("--logit-bias", options.logit_bias, "ID=VALUE, added to a token's logit; may be given again");
  app.add_option("--stop", options.stop, "end before this text; may be given again");
  app.add_option("--seed", options.sampler.seed, "of the sampler")->capture_default_str();
}

Result<engine::Request> request_of(const AnswerOptions& options, std::vector<int32_t> prompt) {
  engine::Request request = {.prompt = std::move(prompt),
                             .max_new_tokens = options.max_new_tokens,
                             .sampler = options.sampler,
                             .stop = options.stop};
  for (const std::string& word : options.logit_bias) {
    int32_t id = 0;
    float bias = 0;
    const char* const end = word.data() + word.size();
    const auto [after, error] = std::from_chars(word.data(), end, id);
    const bool assigned = error == std::errc() && after != end && *after == '=';
    const auto value = assigned ? std::from_chars(after + 1, end, bias) : std::from_chars_result{after, error};
    if (!assigned || value.ec != std::errc() || value.ptr != end) {
      return invalid_argument(fmt::format("--logit-bias: '{}' is not ID=VALUE; write for example 42=-5", word));
    }
    request.sampler.logit_bias.emplace_back(id, bias);
  }
  return request;
}

std::string dump(const nlohmann::ordered_json& json, int indent) {
  return json.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

void print_now(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace autoglm::edge
