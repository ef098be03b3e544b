#include <poll.h>
#include <unistd.h>

#include <iostream>

#include "apps/edge/common.h"
#include "core/base/cancel.h"
#include "core/tokenizer/chat_template.h"

namespace autoglm::edge {
namespace {

struct ChatOptions {
  ModelOptions model;
  AnswerOptions answer;
};

/// One conversation. What was said stays in the engine's cache, so that each turn runs only what is new.
class Conversation {
 public:
  Conversation(const ChatOptions& options, const Loaded& loaded, const tokenizer::ChatTemplate& chat)
      : options_(options), loaded_(loaded), chat_(chat) {
    reset();
  }

  void reset() {
    messages_ = nlohmann::ordered_json::array();
    if (!options_.answer.system.empty()) messages_.push_back({{"role", "system"}, {"content", options_.answer.system}});
  }

  /// The answer to `said`; after a failure the conversation is as before.
  Result<engine::Completion> answer(const std::string& said, const std::function<void(const std::string&)>& on_text) {
    nlohmann::ordered_json next = messages_;
    next.push_back({{"role", "user"}, {"content", said}});
    AUTOGLM_ASSIGN_OR_RETURN(const std::string text,
                             chat_.render({{"messages", next}, {"add_generation_prompt", true}}));
    AUTOGLM_ASSIGN_OR_RETURN(engine::Request request, request_of(options_.answer, loaded_.tokenizer->encode(text)));
    AUTOGLM_ASSIGN_OR_RETURN(engine::Completion done,
                             loaded_.engine->complete(std::move(request), on_text, &CancelToken::global()));
    next.push_back({{"role", "assistant"}, {"content", done.text}});
    messages_ = std::move(next);
    return done;
  }

 private:
  const ChatOptions& options_;
  const Loaded& loaded_;
  const tokenizer::ChatTemplate& chat_;
  nlohmann::ordered_json messages_;
};

/// Waits until something is typed, or Ctrl-C: reading goes on after a signal. One that comes between the question and
/// poll does not end it, therefore it asks again.
Status wait_for_input() {
  constexpr int kMilliseconds = 100;
  pollfd input = {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  do {
    AUTOGLM_RETURN_IF_ERROR(CancelToken::global().check());
  } while (poll(&input, 1, kMilliseconds) <= 0);
  return ok_status();
}

Status run(const ChatOptions& options, bool as_json) {
  AUTOGLM_ASSIGN_OR_RETURN(const Loaded loaded, load(options.model));
  AUTOGLM_ASSIGN_OR_RETURN(const auto chat, tokenizer::ChatTemplate::load(options.model.model));
  AUTOGLM_RETURN_IF_ERROR(request_of(options.answer, {}).status());
  Conversation conversation(options, loaded, chat);
  const bool typed = isatty(STDIN_FILENO) != 0, terminal = typed && !as_json;
  if (terminal) print_now("Say something; /reset begins anew, /exit or Ctrl-D ends.\n");
  std::string line;
  while (true) {
    if (terminal) print_now("> ");
    if (typed) AUTOGLM_RETURN_IF_ERROR(wait_for_input());
    if (!std::getline(std::cin, line) || line == "/exit") return ok_status();
    if (line.empty()) continue;
    if (line == "/reset") {
      conversation.reset();
      continue;
    }
    const auto done = conversation.answer(line, [&](const std::string& piece) {
      if (!as_json) print_now(piece);
    });
    if (!done.ok()) {
      // In a terminal one may go on, say more briefly; a script wants to know.
      if (!terminal || done.status().code() == StatusCode::kCancelled) return done.status();
      cli::fail(done.status());
      continue;
    }
    if (as_json) {
      print_now(dump({{"text", done->text},
                      {"finish", to_string(done->finish)},
                      {"prompt_tokens", done->usage.prompt_tokens},
                      {"shared_tokens", done->usage.shared_tokens},
                      {"new_tokens", done->usage.new_tokens}},
                     -1));
    }
    print_now("\n");
  }
}

}  // namespace

Command add_chat(CLI::App& root) {
  Command command = cli::add_command(root, "chat", "Talk with a model, line by line",
                                     "autoglm-edge chat models/glm-phone-demo --temperature 0.7");
  auto options = std::make_shared<ChatOptions>();
  add_model_options(*command.app, options->model);
  add_answer_options(*command.app, options->answer);
  command.run = [options, output = command.output] {
    const Status status = run(*options, output->json);
    return status.ok() ? 0 : cli::fail(status);
  };
  return command;
}

}  // namespace autoglm::edge
