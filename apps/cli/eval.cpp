#include <autoglm/evaluate.h>

#include "apps/cli/common.h"

namespace autoglm::cli {

Command add_eval(CLI::App& root) {
  Command command = add_command(root, "eval", "Measure a checkpoint, alone or against the one it was made from",
                                "autoglm eval demo-int4 --source models/glm-phone-demo");
  auto options = std::make_shared<EvaluateOptions>();
  CLI::App& app = *command.app;
  app.add_option("model,--model-path", options->model, "the folder to measure");
  app.add_option("--source", options->source, "what it was made from; gives KL divergence and agreement");
  app.add_option("--eval-dataset", options->evaluation,
                 ".txt, .jsonl or a folder (default: the folder's tasks, else text of the model itself)");
  app.add_option("--level", options->level, "fast or full")->capture_default_str();
  app.add_option("--seconds", options->seconds, "time that fast may take")->capture_default_str();
  app.add_option("--max-kl", options->max_kl,
                 "fail (exit 4) when the mean KL divergence in nats is above this, for example 0.02")
      ->check(above_zero());
  add_share(app, "--max-loss", options->max_loss, "fail (exit 4) when more than this is lost, for example 3%");
  add_bytes(app, "--max-ram", options->max_ram, "stay below this, for example 4G");
  app.add_option("--threads", options->threads, "0: all cores")->capture_default_str();
  app.add_option("--seed", options->seed, "of every random choice")->capture_default_str();
  app.add_option("--device", options->device, "cpu or cuda[:N]")->capture_default_str();
  app.add_option("--compute", options->compute, "fp32, bf16 or fp16")->capture_default_str();
  app.add_option("--engine", options->engine,
                 "what runs the model: torch, or runtime or runtime-int8, as autoglm-edge does (the source: torch)")
      ->capture_default_str();
  command.run = [options, output = command.output] {
    const auto outcome = evaluate(*options);
    if (!outcome.ok()) return fail(outcome.status());
    print(*output, outcome->report_json, outcome->summary);
    return outcome->contract.ok() ? 0 : fail(outcome->contract);
  };
  return command;
}

}  // namespace autoglm::cli
