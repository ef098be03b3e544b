#include <autoglm/compress.h>

#include "apps/cli/common.h"

namespace autoglm::cli {
namespace {

void add_options(CLI::App& app, CompressOptions& options) {
  app.add_option("model,--model-path", options.model,
                 "checkpoint folder, or a Hugging Face id (org/name, org/name@revision)");
  app.add_option("-o,--output", options.output, "folder to write (default: MODEL-QUANTIZATION here)");
  app.add_flag("--overwrite", options.overwrite, "replace an artifact that exists");

  app.add_flag("--resume", options.resume,
               "go on where the same command was interrupted, and be ready to; without it, Ctrl-C leaves nothing");

  const std::string recipe = "Recipe";
  app.add_option("-q,--quantization", options.quantization,
                 "int2..int8, w8a8, w8a8-static, fp16 or bf16; -gN sets the group size, -channel, -tensor, -asym: "
                 "int4-g64-asym; auto "
                 "chooses by a budget or a contract [int4]")
      ->group(recipe);
  app.add_option("--target-bits", options.target_bits,
                 "choose formats for this many stored bits per parameter, for example 3.5")
      ->check(above_zero())
      ->group(recipe);
  add_bytes(app, "--target-size", options.target_size, "choose formats for weight files of this size, for example 3MB")
      ->group(recipe);
  app.add_option("--ratio", options.ratio, "choose formats for this many times smaller than fp32, for example 12x")
      ->transform([](const std::string& text) { return text.ends_with('x') ? text.substr(0, text.size() - 1) : text; })
      ->check(above_zero())
      ->group(recipe);
  app.add_option("--profile", options.profile,
                 "what such formats must run on: any, transformers or vllm [transformers; any where that is too large]")
      ->group(recipe);
  app.add_option("--scores", options.scores,
                 "file that keeps the measured sensitivities: another budget then takes no new measurement")
      ->group(recipe);
  app.add_option("--swaps", options.swaps,
                 "rounds in which bits move between layers by what the whole model is measured to lose [0; best: 2]")
      ->group(recipe);
  app.add_option("--method", options.method,
                 "gptq, gptaq, awq or rtn; awq+ or smoothquant+ before one of them folds scales first: awq+gptq [gptq "
                 "with calibration text, else rtn]")
      ->group(recipe);
  app.add_option("--observer", options.observer,
                 "how w8a8-static finds ranges: minmax, moving-average, percentile, mse or entropy [percentile]")
      ->group(recipe);
  app.add_option("--effort", options.effort,
                 "fast (gptq alone), balanced or best (gptaq, then --reconstruct and --refine) [fast]")
      ->group(recipe);
  add_share(app, "--repair", options.repair,
            "more bits for a matrix that loses more than this share of its outputs, for example 5% [none]")
      ->group(recipe);
  app.add_option("--reconstruct", options.reconstruct,
                 "steps that train each block's rounding and scales against the source's block [0]")
      ->group(recipe);
  app.add_option("--refine", options.refine,
                 "passes over the calibration text that train scales, norms and biases against the source [0]")
      ->group(recipe);
  app.add_option("--override", options.overrides,
                 "REGEX=SCHEME[:METHOD] for modules whose name matches; SCHEME may be keep; repeatable, the first "
                 "match decides")
      ->group(recipe);
  app.add_option("--ignore", options.ignore, "regex of modules that stay as they are; repeatable")->group(recipe);
  app.add_option("--embedding", options.embedding, "scheme of the embedding [kept]")->group(recipe);
  app.add_option("--head", options.head, "scheme of the output head [kept]")->group(recipe);
  app.add_option("--config", options.config, "recipe file in YAML; options given here take precedence")->group(recipe);

  const std::string calibration = "Calibration";
  app.add_option("--calibration-dataset", options.calibration,
                 ".txt, .jsonl, a folder of them, a set of `calibrate build`, or self: text that the model writes "
                 "[MODEL/tasks/calibration.jsonl where it exists]")
      ->group(calibration);
  app.add_option("--calibration-samples", options.calibration_samples, "sequences [128; of a set: all]")
      ->check(above_zero())
      ->group(calibration);
  app.add_option("--calibration-length", options.calibration_length, "tokens of each [512]")
      ->check(above_zero())
      ->group(calibration);

  const std::string verification = "Verification";
  app.add_option("--verify", options.verify, "none, fast or full [fast: no longer than compressing took]")
      ->group(verification);
  app.add_option("--eval-dataset", options.evaluation,
                 "text to measure on [MODEL/tasks/eval.jsonl, else a tenth of the calibration text, else text the "
                 "source model writes]")
      ->group(verification);
  add_share(
      app, "--max-loss", options.max_loss,
      "fail (exit 4) when more than this is lost, for example 3%; with -q auto: the smallest artifact that loses no "
      "more")
      ->group(verification);
  app.add_option("--max-kl", options.max_kl, "the same by the mean KL divergence in nats, for example 0.02")
      ->check(above_zero())
      ->group(verification);

  const std::string bounds = "Bounds";
  add_bytes(app, "--max-ram", options.max_ram,
            "refuse beforehand when the plan needs more, for example 4G [what the machine has]")
      ->group(bounds);
  add_bytes(app, "--max-shard", options.max_shard, "size of one weight file [5G]")->group(bounds);
  app.add_option("--threads", options.threads, "[all cores]")->group(bounds);
  app.add_option("--seed", options.seed, "of every random choice [0]")->group(bounds);
  app.add_option("--device", options.device, "cpu or cuda[:N] [cpu]")->group(bounds);
  app.add_option("--compute", options.compute, "fp32, bf16 or fp16 [fp32]")->group(bounds);
  app.add_flag("--dry-run", options.dry_run, "print the plan (bytes, peak memory, disk, time) and stop")->group(bounds);
}

}  // namespace

Command add_compress(CLI::App& root) {
  Command command = add_command(root, "compress", "Make a checkpoint smaller and measure the loss on the written file",
                                "autoglm compress models/glm-phone-demo --quantization int4 -o demo-int4");
  auto options = std::make_shared<CompressOptions>();
  options->verifier = "/proc/self/exe";
  add_options(*command.app, *options);
  command.run = [options, output = command.output] {
    const auto outcome = compress(*options);
    if (!outcome.ok()) return fail(outcome.status());
    print(*output, outcome->report_json, outcome->summary);
    if (!outcome->verification.ok()) return fail(outcome->verification);
    return outcome->contract.ok() ? 0 : fail(outcome->contract);
  };
  return command;
}

}  // namespace autoglm::cli
