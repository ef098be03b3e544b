#include <iostream>
#include <iterator>

#include "apps/edge/common.h"
#include "core/base/cancel.h"
#include "core/tokenizer/chat_template.h"

namespace autoglm::edge {
namespace {

struct GenerateOptions {
  ModelOptions model;
  AnswerOptions answer;
  std::string prompt;
  bool raw = false;
};

Result<std::string> render(const GenerateOptions& options) {
  if (options.raw) return options.prompt;
  AUTOGLM_ASSIGN_OR_RETURN(const auto chat, tokenizer::ChatTemplate::load(options.model.model));
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  if (!options.answer.system.empty()) messages.push_back({{"role", "system"}, {"content", options.answer.system}});
  messages.push_back({{"role", "user"}, {"content", options.prompt}});
  return chat.render({{"messages", messages}, {"add_generation_prompt", true}});
}

Status run(const GenerateOptions& options, bool as_json) {
  if (options.prompt.empty()) return invalid_argument("the prompt is empty; give --prompt or standard input");
  AUTOGLM_ASSIGN_OR_RETURN(const Loaded loaded, load(options.model));
  AUTOGLM_ASSIGN_OR_RETURN(const std::string text, render(options));
  AUTOGLM_ASSIGN_OR_RETURN(engine::Request request, request_of(options.answer, loaded.tokenizer->encode(text)));
  const Stopwatch watch;
  double first = 0;
  const auto on_text = [&](const std::string& piece) {
    if (first == 0) first = watch.seconds();
    if (!as_json) print_now(piece);
  };
  AUTOGLM_ASSIGN_OR_RETURN(const engine::Completion done,
                           loaded.engine->complete(std::move(request), on_text, &CancelToken::global()));
  if (!as_json) {
    print_now("\n");
    return ok_status();
  }
  const nlohmann::ordered_json json = {{"text", done.text},
                                       {"finish", to_string(done.finish)},
                                       {"prompt_tokens", done.usage.prompt_tokens},
                                       {"new_tokens", done.usage.new_tokens},
                                       {"load_seconds", loaded.seconds},
                                       {"first_text_seconds", first},
                                       {"seconds", watch.seconds()}};
  print_now(dump(json) + "\n");
  return ok_status();
}

}  // namespace

Command add_generate(CLI::App& root) {
  Command command =
      cli::add_command(root, "generate", "Continue a prompt",
                       "autoglm-edge generate models/glm-phone-demo --prompt \"App: Clock\n- Save\nTask: tap Save\"");
  auto options = std::make_shared<GenerateOptions>();
  CLI::App& app = *command.app;
  add_model_options(app, options->model);
  app.add_option("-p,--prompt", options->prompt, "what to say; read from standard input when absent");
  app.add_flag("--raw", options->raw, "continue the prompt as it is, without the chat template");
  add_answer_options(app, options->answer);
  command.run = [options, output = command.output, prompt = app.get_option("--prompt")] {
    if (prompt->empty()) options->prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
    const Status status = run(*options, output->json);
    return status.ok() ? 0 : cli::fail(status);
  };
  return command;
}

}  // namespace autoglm::edge
