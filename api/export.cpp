#include <autoglm/export.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "api/model_source.h"
#include "compress/export/gguf.h"
#include "compress/export/hf.h"
#include "core/base/memory.h"
#include "core/base/suggest.h"
#include "core/format/checkpoint_writer.h"
#include "core/format/display.h"
#include "core/format/stored_model.h"

namespace autoglm {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kUsualShard = 5'000'000'000, kLeastShard = 1 << 20;

Result<std::optional<format::DType>> parse_dtype(const std::string& word) {
  if (word.empty()) return std::optional<format::DType>();
  if (word == "bf16") return std::optional(format::DType::kBF16);
  if (word == "fp16") return std::optional(format::DType::kF16);
  if (word == "fp32") return std::optional(format::DType::kF32);
  return invalid_argument(unknown_word("value of --type", word, std::vector<std::string>{"bf16", "fp16", "fp32"}));
}

// Of the tensors, were every float in `dtype`; a little more than is written.
int64_t plain_bytes(const format::StoredModel& model, std::optional<format::DType> dtype) {
  int64_t bytes = 0;
  for (const auto& module : model.layout.modules()) {
    const bool converted = dtype || model.scheme_of(module) != nullptr;
    const int64_t width = format::size_of(dtype.value_or(model.config.dtype));
    bytes += converted ? format::element_count(module.shape).value_or(0) * width : model.weight_bytes(module);
  }
  for (const std::string& name : model.layout.others(model.checkpoint)) bytes += model.checkpoint.find(name)->nbytes;
  return bytes;
}

Result<ExportOutcome> export_hf(const format::StoredModel& model, const ExportOptions& options, CancelToken& cancel) {
  AUTOGLM_ASSIGN_OR_RETURN(const auto dtype, parse_dtype(options.type));
  AUTOGLM_ASSIGN_OR_RETURN(
      auto writer, format::CheckpointWriter::create(
                       options.output, {.max_shard_bytes = options.max_shard > 0 ? options.max_shard : kUsualShard,
                                        .overwrite = options.overwrite,
                                        .expected_bytes = plain_bytes(model, dtype),
                                        .cancel = &cancel}));
  AUTOGLM_ASSIGN_OR_RETURN(const auto report, exports::write_hf(model, {.dtype = dtype}, writer, cancel));
  const int64_t bytes = writer.tensor_bytes();
  AUTOGLM_RETURN_IF_ERROR(writer.commit());
  const std::string type(to_string(report.dtype));
  ExportOutcome outcome;
  outcome.json = nlohmann::ordered_json{{"format", "hf"},
                                        {"output", writer.target().string()},
                                        {"dtype", type},
                                        {"bytes", bytes},
                                        {"matrices", report.matrices},
                                        {"checked", report.checked},
                                        {"rounding", report.rounding},
                                        {"activations_dropped", report.had_activations}}
                     .dump(2);
  outcome.summary = fmt::format("{}: {} of plain {}; {} matrices were quantized\n", writer.target().string(),
                                format_bytes(bytes), type, report.matrices);
  if (report.had_activations) {
    outcome.summary += "the artifact quantizes activations too; a plain folder computes with its weights alone\n";
  }
  outcome.summary += fmt::format(
      "checked: {} tensors read back, all as the artifact says; rounding to {} moved none by "
      "more than {:.1e} of its matrix's largest\n",
      report.checked, type, report.rounding);
  return outcome;
}

Result<ExportOutcome> export_gguf(const format::StoredModel& model, const ExportOptions& options, CancelToken& cancel) {
  exports::GgufOptions how{.pre = options.pre};
  if (!options.type.empty()) how.type = options.type;
  AUTOGLM_ASSIGN_OR_RETURN(auto written, exports::write_gguf(model, how, options.output, options.overwrite, cancel));
  auto& [file, report] = written;
  AUTOGLM_RETURN_IF_ERROR(file.publish());
  std::string types;
  for (const auto& [type, count] : report.types) {
    types += fmt::format("{}{} {}", types.empty() ? "" : ", ", count, type);
  }
  ExportOutcome outcome;
  outcome.json = nlohmann::ordered_json{{"format", "gguf"},
                                        {"output", file.target().string()},
                                        {"architecture", report.architecture},
                                        {"bytes", report.bytes},
                                        {"types", report.types},
                                        {"left_out", report.left_out},
                                        {"checked", report.checked},
                                        {"difference", report.difference}}
                     .dump(2);
  const std::string left_out =
      report.left_out > 0 ? fmt::format("; {} tensors beside the decoder are left out", report.left_out) : "";
  outcome.summary = fmt::format(
      "{}: {}, architecture {}: {}{}\nchecked: {} tensors read back, none off by more than {:.1e} of its largest\n",
      file.target().string(), format_bytes(report.bytes), report.architecture, types, left_out, report.checked,
      report.difference);
  return outcome;
}

}  // namespace

Result<ExportOutcome> export_model(const ExportOptions& options, CancelToken& cancel) {
  static const std::vector<std::string> formats = {"hf", "gguf"};
  if (options.format.empty()) {
    return invalid_argument(fmt::format("no format is named; give --format {}", fmt::join(formats, " or ")));
  }
  if (std::find(formats.begin(), formats.end(), options.format) == formats.end()) {
    return invalid_argument(unknown_word("format", options.format, formats));
  }
  if (options.output.empty()) return invalid_argument("no output is named; give -o OUT");
  AUTOGLM_ASSIGN_OR_RETURN(const fs::path folder, api::find_model(options.model));
  AUTOGLM_ASSIGN_OR_RETURN(const auto model, format::StoredModel::open(folder));
  std::error_code error;
  std::vector<fs::path> read = {folder / "config.json", folder / "tokenizer.json"};
  for (const fs::path& file : model.checkpoint.files()) read.push_back(file);
  for (const fs::path& file : read) {
    if (!fs::exists(file, error) || !api::lies_in(file, options.output)) continue;
    return invalid_argument(fmt::format("{}: the output would replace {}, which is in use; name another",
                                        options.output, format::display_path(file)));
  }
  const bool is_gguf = options.format == "gguf";
  if (is_gguf && options.max_shard > 0) return invalid_argument("--max-shard means something for --format hf alone");
  if (!is_gguf && !options.pre.empty()) return invalid_argument("--pre means something for --format gguf alone");
  if (options.max_shard > 0 && options.max_shard < kLeastShard) {
    return invalid_argument(
        fmt::format("--max-shard is {}; give at least {}", options.max_shard, format_bytes(kLeastShard)));
  }
  return is_gguf ? export_gguf(model, options, cancel) : export_hf(model, options, cancel);
}

}  // namespace autoglm
