#pragma once
/// compress(): a checkpoint goes in, a smaller one that other software loads comes out, and its loss is measured on the
/// written file.
///
///   autoglm::CompressOptions options;
///   options.model = "models/glm-phone-demo";
///   options.quantization = "int4";
///   options.output = "demo-int4";
///   auto outcome = autoglm::compress(options);
///   if (!outcome.ok()) std::cerr << outcome.status().message() << "\n";
#include <autoglm/cancel.h>
#include <autoglm/status.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace autoglm {

struct CompressOptions {
  std::string model;       ///< a checkpoint folder, or a Hugging Face id, downloaded into its cache
  std::string output;      ///< the artifact's folder; "": MODEL's name and the quantization, in the working directory
  bool overwrite = false;  ///< replace an existing artifact
  bool resume = false;  ///< go on from the blocks that an interrupted run into `output` finished, and keep those that
                        ///< this one finishes should it be interrupted; every other option must be as it was

  // The recipe. Every member has an "unset" value, which a recipe file, then the default in brackets, fills.
  std::string config;        ///< a recipe file (YAML, docs/RECIPES.md)
  std::string quantization;  ///< scheme word: int2..int8, w8a8, w8a8-static, fp16, bf16, with -gN, -channel, -asym,
                             ///< ...: "int4-g64-asym"; "auto" chooses by a budget below [int4, or auto with a budget]
  std::string method;        ///< "gptq", "gptaq", "awq", "smoothquant", "rtn", or a fold before rounding: "awq+gptq"
                             ///< [gptq where there is calibration text, else rtn]
  std::string effort;        ///< fast | balanced | best: sets the three that follow where they are not given [fast]
  double repair = -1;        ///< share of its outputs that a matrix may lose before it gets more bits; 0: any [0]
  int64_t reconstruct = -1;  ///< steps that train each block's rounding and scales against the source's block [0]
  int64_t refine = -1;       ///< passes over the calibration text that train scales and norms against the source [0]
  std::string observer;      ///< how w8a8-static finds ranges: minmax | moving-average | percentile | mse | entropy
                             ///< [percentile]
  std::vector<std::string>
      overrides;  ///< "REGEX=SCHEME[:METHOD]" over module names, SCHEME may be "keep"; the first match decides
  std::vector<std::string> ignore;  ///< regexes of modules that stay as they are
  std::string embedding;            ///< scheme word of the embedding [kept]
  std::string head;                 ///< scheme word of the head [kept]

  // A budget for automatic bits: one of these, or "auto" and a contract (below); needs calibration text.
  double target_bits = 0;   ///< stored bits per parameter of the whole model
  int64_t target_size = 0;  ///< bytes of the weight files
  double ratio = 0;         ///< times smaller than the model in fp32
  std::string profile;  ///< formats to choose from: any | transformers | vllm [transformers, any where that is too big]
  int64_t swaps = -1;   ///< rounds in which bits move between groups by what the whole model is measured to lose [0]
  std::string scores;   ///< file that keeps measured sensitivities for further budgets [none]

  // Calibration text: .txt, .jsonl, a folder of them, a set of build_calibration(), or "self": written by the model
  // [MODEL/tasks/calibration.jsonl where it exists].
  std::string calibration;
  int64_t calibration_samples = 0;  ///< sequences [128; of a set: all]
  int64_t calibration_length = 0;   ///< tokens of each [512; of a set: as they are]

  // Verification, by a fresh process on the written files.
  std::string verify;      ///< none | fast (no longer than compressing took) | full [fast]
  std::string evaluation;  ///< text to measure on [see docs/RECIPES.md]
  double max_loss = -1;    ///< contract, as a share (0.03); with "auto" the smallest artifact that keeps it [none]
  double max_kl = 0;       ///< contract in its place: mean KL(source || artifact) in nats [none]
  std::string verifier;    ///< the autoglm program to run [found on PATH]

  // Bounds and reproducibility.
  int64_t max_ram = 0;           ///< bytes [what the machine has]
  int64_t max_shard = 0;         ///< bytes of one weight file [5 GB]
  int threads = 0;               ///< [all cores]
  std::optional<uint64_t> seed;  ///< of every random choice [0]
  std::string device;            ///< cpu | cuda | cuda:N [cpu]
  std::string compute;           ///< fp32 | bf16 | fp16: type in which blocks are run [fp32]
  bool dry_run = false;          ///< plan only: nothing is written; MODEL may be a config.json alone
};

struct CompressOutcome {
  std::string output;       ///< the folder that was written; "" for a dry run
  std::string report_json;  ///< report.json, or the plan for a dry run (docs/REPORT.md)
  std::string summary;      ///< the same for people: a short table
  Status contract;          ///< kContractBroken when max_loss does not hold; the artifact is kept and marked
  Status verification;      ///< why the written files could not be measured; the artifact is kept, its report says so
};

/// Blocks until done; `cancel` stops it within a second and leaves nothing behind but what `resume` wants kept. One
/// call at a time per process. Errors: kInvalidArgument (options, recipe), kBadInput (files), kResourceExhausted (disk,
/// memory), kCancelled.
Result<CompressOutcome> compress(const CompressOptions& options, CancelToken& cancel = CancelToken::global());

}  // namespace autoglm
