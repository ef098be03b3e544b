#pragma once
/// The members of every struct of a report, once: name, value, meaning. `visit(name, member, meaning)` is called for
/// each.
#include <type_traits>

#include "core/eval/report.h"

namespace autoglm::eval {

template <typename S, typename T>
concept Is = std::is_same_v<std::remove_const_t<S>, T>;

template <typename V>
void fields(Is<ModelFacts> auto& s, V&& visit) {
  visit("path", s.path, "folder");
  visit("family", s.family, "model_type of config.json");
  visit("architecture", s.architecture, "architectures[0] of config.json");
  visit("storage", s.storage, "how most weights are stored: a dtype, or a quantization scheme");
  visit("parameters", s.parameters, "numbers the model has, however they are stored");
  visit("file_bytes", s.file_bytes, "bytes of the weight files, headers included");
}

template <typename V>
void fields(Is<Cost> auto& s, V&& visit) {
  visit("peak_rss_bytes", s.peak_rss_bytes, "highest resident memory of the whole process, mapped pages included");
  visit("output_bytes", s.output_bytes, "bytes written");
  visit("seconds", s.seconds, "wall-clock time");
}

template <typename V>
void fields(Is<StageTime> auto& s, V&& visit) {
  visit("name", s.name, "stage of the work");
  visit("seconds", s.seconds, "wall-clock time of it");
}

template <typename V>
void fields(Is<BlockReconstruction> auto& s, V&& visit) {
  visit("layer", s.layer, "counted from 0");
  visit(
      "error_before", s.error_before,
      "what the change of its output costs, estimated in nats for each token as if tokens changed independently, on sequences that no step saw");
  visit("error_after", s.error_after, "the same after the last step");
  visit("kept", s.kept, "false: it brought nothing, and the block is as it was before");
}

template <typename V>
void fields(Is<ChosenFormat> auto& s, V&& visit) {
  visit("name", s.name, "modules that are stored alike");
  visit("scheme", s.scheme, "scheme word; keep: as in the source");
  visit("bytes", s.bytes, "stored, scales and zero points included");
  visit("bits_per_weight", s.bits_per_weight, "the same for each weight");
  visit("estimated_kl", s.estimated_kl, "its share of the loss, nats per token");
}

template <typename V>
void fields(Is<CurvePoint> auto& s, V&& visit) {
  visit("bytes", s.bytes, "of all tensors");
  visit("estimated_kl", s.estimated_kl, "least loss for these bytes, nats per token");
}

template <typename V>
void fields(Is<Attempt> auto& s, V&& visit) {
  visit("bytes", s.bytes, "of all tensors");
  visit("estimated_kl", s.estimated_kl, "foreseen, nats per token");
  visit("kl", s.kl, "measured on its files, nats per token");
  visit("loss", s.loss, "what the contract is about, measured");
  visit("holds", s.holds, "whether it keeps the contract, its confidence bound included");
}

template <typename V>
void fields(Is<Swaps> auto& s, V&& visit) {
  visit("measurements", s.measurements, "of the whole model, each with another group in another format");
  visit("kl_before", s.kl_before, "measured KL of rounding to nearest by the estimates' choice, nats per token");
  visit("kl_after", s.kl_after, "by what was exchanged since");
}

template <typename V>
void fields(Is<AutomaticBits> auto& s, V&& visit) {
  visit("profile", s.profile, "what the formats must run on: any, transformers or vllm");
  visit("budget_bytes", s.budget_bytes, "that all tensors may take");
  visit("bytes", s.bytes, "that they take");
  visit("estimated_kl", s.estimated_kl, "estimated KL of rounding to nearest, nats per token");
  visit("tokens", s.tokens, "that the estimate rests on");
  visit("formats", s.formats, "what was chosen");
  visit("curve", s.curve, "sizes and the least loss estimated for each");
  visit("attempts", s.attempts, "sizes that were written and measured to find the smallest that keeps the contract");
  visit("swaps", s.swaps, "formats exchanged by measurement");
}

template <typename V>
void fields(Is<Refinement> auto& s, V&& visit) {
  visit("epochs", s.epochs, "passes over the calibration text");
  visit("steps", s.steps, "updates made");
  visit("kl_before", s.kl_before, "KL(source‖compressed) in nats on calibration sequences that no step saw");
  visit("kl_after", s.kl_after, "the same after the last step");
  visit("kept", s.kept, "false: it brought nothing, and the artifact is as it was before");
}

template <typename V>
void fields(Is<TextUse> auto& s, V&& visit) {
  visit("source", s.source, "file or folder, or `sampled from the source model` (`from the model itself` without one)");
  visit("sequences", s.sequences, "sequences used");
  visit("length", s.length, "tokens of each, at most");
  visit("seed", s.seed, "which pieces of the text were taken");
}

template <typename V, Is<CalibrationUse> S>
void fields(S& s, V&& visit) {
  using Text = std::conditional_t<std::is_const_v<S>, const TextUse, TextUse>;
  fields(static_cast<Text&>(s), visit);
  visit("tokens", s.tokens, "of all sequences");
  visit("tokens_sha256", s.tokens_sha256, "of the sequences: the length and the ids of each as 32-bit integers");
  visit("set_sha256", s.set_sha256, "of the file, where a calibration set was named");
}

template <typename V>
void fields(Is<Conditions> auto& s, V&& visit) {
  visit("cpu", s.cpu, "processor of the machine");
  visit("device", s.device, "where the model ran: `cpu`, `cuda:0`");
  visit("engine", s.engine, "what ran the model measured: `torch`, or `runtime`, `runtime-int8`");
  visit("compute", s.compute, "type that torch ran in: `fp32`, `bf16`, `fp16`");
  visit("threads", s.threads, "threads used");
  visit("seed", s.seed, "seed of every random choice");
}

template <typename V>
void fields(Is<TensorPass> auto& s, V&& visit) {
  visit("name", s.name, "tensor");
  visit("method", s.method, "method that quantized it");
  visit("scheme", s.scheme, "how it is stored now");
  visit("mse", s.mse, "mean squared difference to the weight before this method");
  visit("cosine", s.cosine, "cosine between the two");
  visit("output_error", s.output_error, "‖X(W−Q)ᵀ‖² / ‖XWᵀ‖² on calibration inputs; 0 where none were seen");
  visit("note", s.note, "what was unusual or folded: damping raised, dead columns, AWQ α 0.5");
}

template <typename V>
void fields(Is<Divergence> auto& s, V&& visit) {
  visit("sequences", s.sequences, "sequences compared");
  visit("positions", s.positions, "next-token predictions compared");
  visit("kl_mean", s.kl_mean, "mean KL(source ‖ compressed), nats");
  visit("kl_p50", s.kl_p50, "its median over positions");
  visit("kl_p99", s.kl_p99, "its 99th percentile over positions, nearest rank");
  visit("kl_max", s.kl_max, "its largest value");
  visit("top1_agreement", s.top1_agreement, "share of positions where both put the same token first");
  visit("perplexity_source", s.perplexity_source, "perplexity of the source on the text");
  visit("perplexity", s.perplexity, "perplexity of the compressed model on the same text");
}

template <typename V>
void fields(Is<TaskGroup> auto& s, V&& visit) {
  visit("name", s.name, "`kind …` or `lang …`");
  visit("count", s.count, "tasks of the group");
  visit("correct", s.correct, "right answers of the compressed model");
  visit("source_correct", s.source_correct, "right answers of the source");
}

template <typename V>
void fields(Is<TaskScores> auto& s, V&& visit) {
  visit("count", s.count, "tasks asked");
  visit("available", s.available, "tasks there were to choose from");
  visit("max_new_tokens", s.max_new_tokens, "longest answer allowed, in tokens");
  visit("correct", s.correct, "right answers of the compressed model");
  visit("source_correct", s.source_correct, "right answers of the source");
  visit("lost", s.lost, "tasks that only the source got right");
  visit("gained", s.gained, "tasks that only the compressed model got right");
  visit("agreement", s.agreement, "share of tasks where both answer the same, right or wrong");
  visit("groups", s.groups, "the same by kind and by language");
}

template <typename V>
void fields(Is<Latency> auto& s, V&& visit) {
  visit("context", s.context, "tokens before the timed ones");
  visit("steps", s.steps, "one-token steps timed");
  visit("milliseconds_per_token", s.milliseconds_per_token, "median of the compressed model");
  visit("source_milliseconds_per_token", s.source_milliseconds_per_token, "median of the source");
}

template <typename V>
void fields(Is<TensorDiff> auto& s, V&& visit) {
  visit("name", s.name, "module or tensor in the artifact");
  visit("role", s.role, "what it does in the model");
  visit("layer", s.layer, "block, -1 outside the blocks");
  visit("expert", s.expert, "routed expert, -1 elsewhere");
  visit("scheme", s.scheme, "how it is stored");
  visit("parameters", s.parameters, "numbers in it");
  visit("compared", s.compared, "numbers that were compared");
  visit("mse", s.mse, "mean squared difference to the source, from the bytes of both files");
  visit("relative_mse", s.relative_mse, "the same divided by the source's mean square");
  visit("cosine", s.cosine, "cosine between the two");
  visit("max_abs", s.max_abs, "largest difference");
}

template <typename V>
void fields(Is<WeightDiff> auto& s, V&& visit) {
  visit("tensors", s.tensors, "every tensor whose values are not all the source's");
  visit("identical", s.identical, "number of tensors that are");
  visit("changed", s.changed, "tensors stored as floats whose values differ from the source's");
  visit("missing", s.missing, "tensors of the source that the artifact has in no form");
  visit("extra", s.extra, "tensors of the artifact that come from nothing in the source");
  visit("compared_share", s.compared_share, "share of all numbers that were compared");
}

template <typename V>
void fields(Is<PartSize> auto& s, V&& visit) {
  visit("part", s.part, "`embedding`, `attention`, `mlp`, `experts`, `norms`, `head` or `other`");
  visit("parameters", s.parameters, "numbers in it");
  visit("bytes", s.bytes, "bytes stored");
  visit("scale_bytes", s.scale_bytes, "of these, scales and zero points");
  visit("source_bytes", s.source_bytes, "bytes of the same part in the source");
  visit("bits_per_weight", s.bits_per_weight, "8 · bytes / parameters");
}

template <typename V>
void fields(Is<Sizes> auto& s, V&& visit) {
  visit("parts", s.parts, "bytes by part of the model");
  visit("parameters", s.parameters, "numbers the model has");
  visit("tensor_bytes", s.tensor_bytes, "bytes of all tensors, file headers excluded");
  visit("file_bytes", s.file_bytes, "bytes of the weight files");
  visit("source_file_bytes", s.source_file_bytes, "bytes of the source's weight files; 0 without a source");
  visit("quantized_parameters", s.quantized_parameters, "weights stored as integers");
  visit("quantized_bits_per_weight", s.quantized_bits_per_weight,
        "bits those take each, scales, zero points and shapes included");
  visit("bits_per_weight", s.bits_per_weight, "bits of the whole model per number");
  visit("ratio", s.ratio, "source_file_bytes / file_bytes; 0 without a source");
  visit("ratio_16_bit", s.ratio_16_bit, "compression against all numbers in 2 bytes");
  visit("ratio_32_bit", s.ratio_32_bit, "compression against all numbers in 4 bytes");
}

template <typename V>
void fields(Is<Contract> auto& s, V&& visit) {
  visit("max_loss", s.max_loss, "loss that was allowed, as a share or in nats");
  visit("measure", s.measure, "`task accuracy` (relative drop), `top-1 agreement` (1 − agreement) or `KL divergence`");
  visit("loss", s.loss, "loss that was measured, in the same unit; negative when the model got better");
  visit("upper", s.upper, "what the loss is below with a confidence of 95 %, by paired comparison");
  visit("holds", s.holds, "whether the loss is within the bound");
}

template <typename V>
void fields(Is<Evaluation> auto& s, V&& visit) {
  visit("level", s.level, "`fast` or `full`");
  visit("text", s.text, "held-out text");
  visit("conditions", s.conditions, "machine and settings");
  visit("seconds", s.seconds, "time it took");
  visit("seconds_allowed", s.seconds_allowed, "time it was allowed (`fast`)");
  visit("peak_rss_bytes", s.peak_rss_bytes, "highest resident memory of the measuring process, mapped pages included");
  visit("divergence", s.divergence, "next-token distributions against the source's");
  visit("perplexity", s.perplexity, "of the model alone, where there is no source");
  visit("tasks", s.tasks, "answers to the tasks of the model's folder");
  visit("latency", s.latency, "time per token");
  visit("weights", s.weights, "written weights against the source's");
  visit("sizes", s.sizes, "bytes and bits");
  visit("contract", s.contract, "the bound on the loss");
  visit("notes", s.notes, "what was left out or shortened, and why");
}

template <typename V>
void fields(Is<Report> auto& s, V&& visit) {
  visit("schema_version", s.schema_version, "1; raised when a member changes its meaning or disappears");
  visit("program", s.program, "program and version");
  visit("source", s.source, "the model that was compressed");
  visit("artifact", s.artifact, "the model that was written");
  visit("recipe", s.recipe, "what was done, all defaults written out");
  visit("calibration", s.calibration, "text that the methods saw");
  visit("conditions", s.conditions, "machine and settings of compressing");
  visit("predicted", s.predicted, "cost foreseen before the start");
  visit("measured", s.measured, "cost found after");
  visit("stages", s.stages, "time by stage");
  visit("automatic", s.automatic, "how formats were chosen under a budget");
  visit("reconstruction", s.reconstruction, "what training the rounding of each block gave");
  visit("refinement", s.refinement, "what training scales, norms and biases gave");
  visit("passes", s.passes, "what the methods said of each tensor");
  visit("carried_over", s.carried_over, "tensors copied untouched because no rule names them");
  visit("evaluation", s.evaluation, "what a fresh process measured on the written files");
  visit("warnings", s.warnings, "warnings of the run");
}

}  // namespace autoglm::eval
