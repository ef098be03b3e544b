#include <autoglm/calibrate.h>

#include "apps/cli/common.h"

namespace autoglm::cli {
namespace {

int print_outcome(const Output& output, const Result<CalibrationOutcome>& outcome) {
  if (!outcome.ok()) return fail(outcome.status());
  print(output, outcome->json, outcome->summary);
  return 0;
}

Command add_build(CLI::App& parent) {
  Command command = add_command(
      parent, "build", "Make a calibration set from text, or from what the model writes",
      "autoglm calibrate build models/glm-phone-demo models/glm-phone-demo/tasks/calibration.jsonl -o set.jsonl");
  auto options = std::make_shared<CalibrationOptions>();
  CLI::App& app = *command.app;
  app.add_option("model,--model-path", options->model,
                 "checkpoint folder, or a Hugging Face id (org/name, org/name@revision)");
  app.add_option("text", options->texts,
                 ".txt, .jsonl (text, messages or tasks), a folder of them, or self: text that "
                 "the model writes; several are mixed");
  app.add_option("-o,--output", options->output, "file to write, .jsonl");
  app.add_flag("--overwrite", options->overwrite, "replace a file that exists");
  app.add_option("--samples", options->samples, "sequences")->capture_default_str();
  app.add_option("--length", options->length, "tokens of each, at most")->capture_default_str();
  app.add_flag("--join", options->join, "join documents, so that every sequence has the full length");
  app.add_option("--seed", options->seed, "of every random choice")->capture_default_str();
  add_bytes(app, "--max-ram", options->max_ram,
            "for self: refuse beforehand when more is needed [what the machine has]");
  app.add_option("--threads", options->threads, "for self; 0: all cores")->capture_default_str();
  command.run = [options, output = command.output] { return print_outcome(*output, build_calibration(*options)); };
  return command;
}

Command add_show(CLI::App& parent) {
  Command command =
      add_command(parent, "show", "Show what a calibration set holds", "autoglm calibrate show set.jsonl");
  auto set = std::make_shared<std::string>();
  command.app->add_option("set", *set, "a file that `calibrate build` wrote");
  command.run = [set, output = command.output] { return print_outcome(*output, show_calibration(*set)); };
  return command;
}

Command add_shift(CLI::App& parent) {
  Command command =
      add_command(parent, "shift", "Measure how far calibration text lies from what the model is used on",
                  "autoglm calibrate shift models/glm-phone-demo self models/glm-phone-demo/tasks/calibration.jsonl "
                  "--eval-dataset models/glm-phone-demo/tasks/eval.jsonl --samples 4 --length 64");
  auto options = std::make_shared<ShiftOptions>();
  CLI::App& app = *command.app;
  app.add_option("model,--model-path", options->model,
                 "checkpoint folder, or a Hugging Face id (org/name, org/name@revision)");
  app.add_option("text", options->calibration,
                 "texts to compare, each on its own: .txt, .jsonl, a folder of them, a calibration set, or self");
  app.add_option("--eval-dataset", options->evaluation, "text that stands for what the model will be used on");
  app.add_option("-q,--quantization", options->quantization, "what matrices are quantized to on each of them")
      ->capture_default_str();
  app.add_option("--samples", options->samples, "sequences of each")->capture_default_str();
  app.add_option("--length", options->length, "tokens of each sequence")->capture_default_str();
  app.add_option("--seed", options->seed, "of every random choice")->capture_default_str();
  add_bytes(app, "--max-ram", options->max_ram, "refuse beforehand when more is needed [what the machine has]");
  app.add_option("--threads", options->threads, "0: all cores")->capture_default_str();
  command.run = [options, output = command.output] { return print_outcome(*output, measure_shift(*options)); };
  return command;
}

}  // namespace

Command add_calibrate(CLI::App& root) {
  Command command = add_group(
      root, "calibrate", "Build, show and compare sets of calibration text",
      "autoglm calibrate build models/glm-phone-demo models/glm-phone-demo/tasks/calibration.jsonl -o set.jsonl");
  command.commands = {add_build(*command.app), add_show(*command.app), add_shift(*command.app)};
  return command;
}

}  // namespace autoglm::cli
