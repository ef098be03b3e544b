#pragma once
/// evaluate(): measures a checkpoint, alone or against the one it was made from.
#include <autoglm/cancel.h>
#include <autoglm/status.h>

#include <cstdint>
#include <string>

namespace autoglm {

struct EvaluateOptions {
  std::string model;           ///< the folder to measure (an artifact or a float checkpoint)
  std::string source;          ///< what it was made from; "": perplexity, tasks and latency alone
  std::string evaluation;      ///< .txt, .jsonl or a folder; "": the folder's tasks, else text sampled from the source
  std::string level = "fast";  ///< fast | full
  double seconds = 60;         ///< time that `fast` may take
  double max_loss = -1;        ///< contract, as a share; negative: none
  double max_kl = 0;           ///< contract in its place, mean KL(source || model) in nats; 0: none
  int64_t max_ram = 0;         ///< bytes; 0: what the machine has
  int threads = 0;
  uint64_t seed = 0;
  std::string device = "cpu";
  std::string compute = "fp32";
  /// Of `model`: torch, or runtime or runtime-int8, which compute as autoglm-edge does, on the CPU, with all weights in
  /// memory; `device` and `compute` are the source's then.
  std::string engine = "torch";
};

struct EvaluateOutcome {
  std::string report_json;  ///< the measured part of report.json (docs/REPORT.md)
  std::string summary;
  Status contract;
};

Result<EvaluateOutcome> evaluate(const EvaluateOptions& options, CancelToken& cancel = CancelToken::global());

}  // namespace autoglm
