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
  std::string model;    ///< a checkpoint folder, or a Hugging Face id that the local cache holds
  std::string output;   ///< the artifact's folder; "": MODEL's name and the quantization, in the working directory
  bool overwrite = false;   ///< replace an existing artifact

  // What to do (the recipe). Scheme words: int2..int8, w8a8, fp16, bf16, with -gN (group size), -channel, -tensor, -asym:
  // "int4-g64-asym".
  std::string quantization = "int4";
  std::string method;       ///< "gptq", "rtn"; "": gptq where there is calibration text, else rtn
  std::string scales;       ///< "minmax" or "mse" (error-minimising search); "": what suits the method
  std::vector<std::pair<std::string, std::string>> overrides;  ///< {regex over module names, scheme word or "keep"}, first match wins
  std::vector<std::string> ignore;                             ///< regexes of modules that stay as they are
  std::string embedding;    ///< scheme word for the embedding; "": kept
  std::string head;         ///< scheme word for the head; "": kept
  std::string config;       ///< a recipe file (YAML); what is set elsewhere here takes precedence

  // Calibration text: .txt, .jsonl or a folder of them; "": MODEL/tasks/calibration.jsonl where it exists.
  std::string calibration;
  int64_t calibration_samples = 128;
  int64_t calibration_length = 512;   ///< tokens of each sample

  // Verification, by a fresh process on the written files.
  std::string verify = "fast";        ///< none | fast (no longer than compressing took) | full
  std::string evaluation;             ///< held-out text; "": the folder's tasks, else text sampled from the source model
  double max_loss = -1;               ///< contract, as a share (0.03); negative: none
  std::string verifier;               ///< the autoglm program to run; "": found beside this one or on PATH

  // Bounds and reproducibility.
  int64_t max_ram = 0;                ///< bytes; 0: what the machine has
  int64_t max_shard = 5'000'000'000;  ///< bytes of one weight file
  int threads = 0;                    ///< 0: all cores
  uint64_t seed = 0;
  std::string device = "cpu";         ///< cpu | cuda | cuda:N
  std::string compute = "fp32";       ///< fp32 | bf16 | fp16: type in which blocks are run
  bool dry_run = false;               ///< plan only: nothing is written
};

struct CompressOutcome {
  std::string output;          ///< the folder that was written; "" for a dry run
  std::string report_json;     ///< report.json, or the plan for a dry run (docs/REPORT.md)
  std::string summary;         ///< the same for people: a short table
  Status contract;             ///< kContractBroken when max_loss does not hold; the artifact is kept and marked
};

/// Blocks until done; `cancel` stops it within a second and leaves nothing behind. One call at a time per process.
/// Errors: kInvalidArgument (options, recipe), kBadInput (files), kResourceExhausted (disk, memory), kCancelled.
Result<CompressOutcome> compress(const CompressOptions& options, CancelToken& cancel = CancelToken::global());

}  // namespace autoglm
