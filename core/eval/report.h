#pragma once
/// Report: everything that is known of one compression, as facts (report.json, docs/REPORT.md) and for people
/// (report.md).
///
/// The members of every struct are listed once, in report_fields.h; JSON in both directions and the schema are derived
/// from that list. What was not measured is absent (null), never zero.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/eval/contract.h"
#include "core/eval/metrics.h"
#include "core/eval/sizes.h"
#include "core/eval/tasks.h"
#include "core/eval/weight_diff.h"

namespace autoglm::eval {

inline constexpr int64_t kReportSchemaVersion = 1;

struct ModelFacts {
  std::string path;
  std::string family;  ///< "glm4"
  std::string architecture;
  std::string storage;  ///< "BF16", "INT4 g128 symmetric"
  int64_t parameters = 0;
  int64_t file_bytes = 0;
};

/// Predicted before the start, or measured after.
struct Cost {
  int64_t peak_rss_bytes = 0;  ///< VmHWM of the whole process, mapped pages included
  int64_t output_bytes = 0;
  double seconds = 0;
};

/// What training the scales, norms and biases gave (docs/RECIPES.md), on calibration sequences that no step saw.
struct Refinement {
  int64_t epochs = 0, steps = 0;
  double kl_before = 0, kl_after = 0;
  bool kept = false;  ///< false: it brought nothing, and the artifact is as it was before
};

/// What training one block's rounding, scales, norms and biases gave: |y - y_source|^2 / |y_source|^2 of its output, on
/// calibration sequences that no step saw.
struct BlockReconstruction {
  int64_t layer = 0;
  double error_before = 0, error_after = 0;
  bool kept = false;  ///< false: it brought nothing, and the block is as it was before
};

/// The format that was chosen for tensors that are stored alike.
struct ChosenFormat {
  std::string name;
  std::string scheme;  ///< "keep": as in the source
  int64_t bytes = 0;
  double bits_per_weight = 0;
  double estimated_kl = 0;  ///< its share, nats per token
};

/// A size and the least loss that formats of that size are estimated to have.
struct CurvePoint {
  int64_t bytes = 0;
  double estimated_kl = 0;
};

/// One size that was written and measured for a contract.
struct Attempt {
  int64_t bytes = 0;
  double estimated_kl = 0;
  std::optional<double> kl;  ///< without text to measure on: none
  double loss = 0;
  bool holds = false;
};

/// Formats that were exchanged by what the whole model was measured to lose.
struct Swaps {
  int64_t measurements = 0;
  double kl_before = 0, kl_after = 0;  ///< nats per token, of rounding to nearest
};

/// How formats were chosen under a budget (docs/RECIPES.md).
struct AutomaticBits {
  std::string profile;       ///< "any", "transformers", "vllm"
  int64_t budget_bytes = 0;  ///< of all tensors
  int64_t bytes = 0;         ///< of what was chosen
  double estimated_kl = 0;   ///< nats per token, of rounding to nearest
  int64_t tokens = 0;        ///< that the estimate rests on
  std::vector<ChosenFormat> formats;
  std::vector<CurvePoint> curve;  ///< estimated, from the smallest size to the least loss
  std::vector<Attempt> attempts;  ///< of a contract, in their order; else none
  std::optional<Swaps> swaps;
};

struct StageTime {
  std::string name;  ///< "calibration", "blocks", "writing", ...
  double seconds = 0;
};

/// Where text came from and how much of it was used.
struct TextUse {
  std::string source;  ///< path, or "sampled from the source model" ("from the model itself" where there is no source)
  int64_t sequences = 0;
  int64_t length = 0;  ///< tokens of each
  uint64_t seed = 0;
};

/// Text that the methods saw.
struct CalibrationUse : TextUse {
  int64_t tokens = 0;                     ///< of all sequences
  std::string tokens_sha256;              ///< of the sequences, in their order
  std::optional<std::string> set_sha256;  ///< of the file, where a calibration set was named
};

/// What the machine and the settings were.
struct Conditions {
  std::string cpu;
  std::string device;   ///< "cpu", "cuda:0"
  std::string compute;  ///< "fp32"
  int64_t threads = 0;
  uint64_t seed = 0;
  std::string engine = "torch";
};

/// What a method said of one tensor while it quantized it (calibration inputs, not held-out text).
struct TensorPass {
  std::string name, method, scheme;
  double mse = 0, cosine = 1;
  double output_error = 0;  ///< ||X (W - Q)^T||^2 / ||X W^T||^2; 0 where no input was seen
  std::string note;
};

struct Latency {
  int64_t context = 0;  ///< tokens before the timed ones
  int64_t steps = 0;    ///< one-token steps; the figures are their medians
  double milliseconds_per_token = 0;
  std::optional<double> source_milliseconds_per_token;
};

/// The measured part: what a fresh process found in the written files.
struct Evaluation {
  std::string level;  ///< "fast" or "full"
  TextUse text;       ///< held-out text
  Conditions conditions;
  double seconds = 0;                     ///< taken
  std::optional<double> seconds_allowed;  ///< "fast" only
  std::optional<int64_t> peak_rss_bytes;  ///< VmHWM of the process that measured
  std::optional<Divergence> divergence;   ///< with a source
  std::optional<double> perplexity;       ///< without one
  std::optional<TaskScores> tasks;
  std::optional<Latency> latency;
  std::optional<WeightDiff> weights;  ///< with a source
  std::optional<Sizes> sizes;
  std::optional<Contract> contract;  ///< with a bound on the loss
  std::vector<std::string> notes;    ///< what was left out or shortened, and why
};

struct Report {
  int64_t schema_version = kReportSchemaVersion;
  std::string program;  ///< "autoglm 0.1.0"
  std::optional<ModelFacts> source;
  ModelFacts artifact;
  nlohmann::ordered_json recipe;  ///< as it was run, all defaults written out
  std::optional<CalibrationUse> calibration;
  std::optional<Conditions> conditions;  ///< of compressing
  std::optional<Cost> predicted, measured;
  std::vector<StageTime> stages;
  std::optional<AutomaticBits> automatic;
  std::vector<BlockReconstruction> reconstruction;
  std::optional<Refinement> refinement;
  std::vector<TensorPass> passes;
  std::vector<std::string> carried_over;  ///< tensors copied untouched because no rule names them
  std::optional<Evaluation> evaluation;
  std::vector<std::string> warnings;
};

/// Two-space indented, UTF-8 (stray bytes replaced), numbers in their shortest exact form.
std::string to_json(const Report& report);
std::string to_json(const Evaluation& evaluation);

/// Members that are absent keep their defaults, unknown ones are ignored. kBadInput: no JSON, a member of the wrong
/// type (named by its path), a schema_version newer than this build's.
Result<Report> report_from_json(std::string_view json);
Result<Evaluation> evaluation_from_json(std::string_view json);

/// The table of docs/REPORT.md: path, type and meaning of every member.
std::string report_schema();

/// "7.9× smaller (16.8 MB → 2.1 MB); KL 0.012; top-1 97.1 %; task accuracy 91.2 % → 90.8 %"
std::string verdict(const Report& report);

/// report.md
std::string to_markdown(const Report& report);

/// Before and after side by side for a terminal: one column for the source (taken from the first report that has one),
/// one for each report. Reports that share no source should not be put together.
std::string summary_table(std::span<const Report> reports);

/// "model name" of /proc/cpuinfo, or "unknown".
std::string cpu_name();

}  // namespace autoglm::eval
