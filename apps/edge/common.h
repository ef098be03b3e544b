#pragma once
/// The subcommands of autoglm-edge, each in the file of its name, and the options that they share.
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/common/command.h"
#include "core/tokenizer/tokenizer.h"
#include "runtime/engine/engine.h"

namespace autoglm::edge {

using cli::Command;

/// What every command that runs a model asks for.
struct ModelOptions {
  std::string model, compute = "float", kv = "fp16";
  engine::EngineOptions engine;
};
void add_model_options(CLI::App& app, ModelOptions& options);

/// Checks the words of `options` and puts them into options.engine.
Status resolve(ModelOptions& options);

struct Loaded {
  std::unique_ptr<tokenizer::Tokenizer> tokenizer;
  std::unique_ptr<engine::Engine> engine;
  double seconds = 0;
};
/// kInvalidArgument: no model was named.
Result<Loaded> load(ModelOptions options);

/// Of one answer.
struct AnswerOptions {
  tokenizer::SamplerOptions sampler;
  std::vector<std::string> stop, logit_bias;  ///< logit_bias: "ID=VALUE"
  int64_t max_new_tokens = 256;
  std::string system;
};
void add_answer_options(CLI::App& app, AnswerOptions& options);
/// kInvalidArgument: a bias that is not ID=VALUE.
Result<engine::Request> request_of(const AnswerOptions& options, std::vector<int32_t> prompt);

/// Seconds since it was made.
class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// Text that a file or a model wrote may be no UTF-8: what is not becomes U+FFFD.
std::string dump(const nlohmann::ordered_json& json, int indent = 2);

/// To stdout at once.
void print_now(const std::string& text);

Command add_generate(CLI::App& root);
Command add_chat(CLI::App& root);
Command add_bench(CLI::App& root);
Command add_pack(CLI::App& root);
Command add_inspect(CLI::App& root);
Command add_version(CLI::App& root);

}  // namespace autoglm::edge
