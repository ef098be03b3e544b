#include <autoglm/generate.h>

#include <cstdio>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "apps/cli/common.h"

namespace autoglm::cli {

Command add_generate(CLI::App& root) {
  Command command =
      add_command(root, "generate", "Continue a prompt with the reference engine",
                  "autoglm generate models/glm-phone-demo --system 'You operate a phone. Reply with one action.' "
                  "--prompt $'App: Wallet\\n- Carol Jones\\n- Save\\nTask: tap Save'");
  auto options = std::make_shared<GenerateOptions>();
  CLI::App& app = *command.app;
  app.add_option("model,--model-path", options->model,
                 "checkpoint folder, or a Hugging Face id (org/name, org/name@revision)");
  app.add_option("-p,--prompt", options->prompt, "what to say; read from standard input when absent");
  app.add_option("--system", options->system, "system message");
  app.add_flag("--raw", options->raw, "continue the prompt as it is, without the chat template");
  app.add_option("-n,--max-new-tokens", options->max_new_tokens, "tokens at most")->capture_default_str();
  app.add_option("--temperature", options->temperature, "0: greedy")->capture_default_str();
  app.add_option("--top-k", options->top_k, "0: all")->capture_default_str();
  app.add_option("--top-p", options->top_p, "probability mass that is kept")->capture_default_str();
  app.add_option("--seed", options->seed, "of the sampler")->capture_default_str();
  add_bytes(app, "--max-ram", options->max_ram, "refuse when the model needs more, for example 4G");
  app.add_option("--threads", options->threads, "0: all cores")->capture_default_str();
  app.add_option("--device", options->device, "cpu or cuda[:N]")->capture_default_str();
  app.add_option("--compute", options->compute, "fp32, bf16 or fp16")->capture_default_str();
  command.run = [options, output = command.output, prompt = app.get_option("--prompt")] {
    if (prompt->empty()) options->prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
    const auto stream = [&](const std::string& text) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
    };
    const auto outcome = output->json ? generate(*options) : generate(*options, stream);
    if (!outcome.ok()) return fail(outcome.status());
    if (output->json) {
      const nlohmann::ordered_json json = {{"text", outcome->text},
                                           {"prompt_tokens", outcome->prompt_tokens},
                                           {"new_tokens", outcome->new_tokens},
                                           {"seconds", outcome->seconds}};
      print(*output, json.dump(2), "");
    } else {
      std::fputc('\n', stdout);
    }
    return 0;
  };
  return command;
}

}  // namespace autoglm::cli
