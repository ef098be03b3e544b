#include <autoglm/export.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "api/model_source.h"
#include "compress/export/awq.h"
#include "compress/export/gguf.h"
#include "compress/export/gguf_import.h"
#include "compress/export/gguf_vision.h"
#include "compress/export/gptq.h"
#include "compress/export/hf.h"
#include "compress/export/onnx.h"
#include "compress/export/tensorrt.h"
#include "compress/export/torchscript/torchscript.h"
#include "compress/export/weight_layout.h"
#include "compress/tensor/bridge.h"
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

// Of what lies beside the decoder, which is copied.
int64_t other_bytes(const format::StoredModel& model) {
  int64_t bytes = 0;
  for (const std::string& name : model.layout.others(model.checkpoint)) bytes += model.checkpoint.find(name)->nbytes;
  return bytes;
}

// Of the tensors, were every float in `dtype`; a little more than is written.
int64_t plain_bytes(const format::StoredModel& model, std::optional<format::DType> dtype) {
  int64_t bytes = 0;
  for (const auto& module : model.layout.modules()) {
    const bool converted = dtype || model.scheme_of(module) != nullptr;
    const int64_t width = format::size_of(dtype.value_or(model.config.dtype));
    bytes += converted ? format::element_count(module.shape).value_or(0) * width : model.weight_bytes(module);
  }
  return bytes + other_bytes(model);
}

/// "12 F32, 30 Q4_0".
std::string listed(const std::map<std::string, int64_t>& types) {
  std::string out;
  for (const auto& [type, count] : types) out += fmt::format("{}{} {}", out.empty() ? "" : ", ", count, type);
  return out;
}

std::string left_out_words(int64_t tensors) {
  return tensors > 0 ? fmt::format("; {} tensors beside the decoder are left out", tensors) : "";
}

Result<format::CheckpointWriter> open_writer(const ExportOptions& options, int64_t expected_bytes,
                                             CancelToken& cancel) {
  return format::CheckpointWriter::create(options.output,
                                          {.max_shard_bytes = options.max_shard > 0 ? options.max_shard : kUsualShard,
                                           .overwrite = options.overwrite,
                                           .expected_bytes = expected_bytes,
                                           .cancel = &cancel});
}

/// Lets `write(folder)` fill the output's folder, and commits it; what it reported, and the folder.
template <typename Report>
Result<std::pair<Report, fs::path>> write_folder(const ExportOptions& options, CancelToken& cancel,
                                                 const std::function<Result<Report>(format::FolderWriter&)>& write) {
  AUTOGLM_ASSIGN_OR_RETURN(
      auto folder, format::FolderWriter::create(options.output, {.overwrite = options.overwrite, .cancel = &cancel}));
  AUTOGLM_ASSIGN_OR_RETURN(auto report, write(folder));
  AUTOGLM_RETURN_IF_ERROR(folder.commit());
  return std::pair(std::move(report), folder.target());
}

Result<ExportOutcome> export_hf(const format::StoredModel& model, const ExportOptions& options, CancelToken& cancel) {
  AUTOGLM_ASSIGN_OR_RETURN(const auto dtype, parse_dtype(options.type));
  AUTOGLM_ASSIGN_OR_RETURN(auto writer, open_writer(options, plain_bytes(model, dtype), cancel));
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

/// A GGUF file as a plain folder.
Result<ExportOutcome> export_from_gguf(const ExportOptions& options, CancelToken& cancel) {
  AUTOGLM_ASSIGN_OR_RETURN(const auto dtype, parse_dtype(options.type));
  AUTOGLM_ASSIGN_OR_RETURN(const auto reader, exports::GgufReader::open(options.model));
  const int64_t width = format::size_of(dtype.value_or(exports::usual_dtype(reader)));
  int64_t expected = 0;
  for (const exports::GgufTensor& tensor : reader.tensors()) expected += tensor.rows() * tensor.cols() * width;
  if (format::lies_in(options.model, options.output)) {
    return invalid_argument(options.output + ": the output would replace the file that is read; name another");
  }
  AUTOGLM_ASSIGN_OR_RETURN(auto writer, open_writer(options, expected, cancel));
  AUTOGLM_ASSIGN_OR_RETURN(const auto report, exports::import_gguf(reader, dtype, writer, cancel));
  const int64_t bytes = writer.tensor_bytes();
  AUTOGLM_RETURN_IF_ERROR(writer.commit());
  const std::string type(to_string(report.dtype));
  ExportOutcome outcome;
  outcome.json = nlohmann::ordered_json{{"format", "hf"},
                                        {"source", "gguf"},
                                        {"output", writer.target().string()},
                                        {"architecture", report.architecture},
                                        {"family", report.family},
                                        {"types", report.types},
                                        {"dtype", type},
                                        {"bytes", bytes},
                                        {"left_out", report.left_out},
                                        {"checked", report.checked},
                                        {"rounding", report.rounding}}
                     .dump(2);
  outcome.summary =
      fmt::format("{}: {} of plain {}, family {}, from {}{}\n", writer.target().string(), format_bytes(bytes), type,
                  report.family, listed(report.types), left_out_words(report.left_out));
  outcome.summary += fmt::format(
      "checked: {} tensors read back, all as the file says; rounding to {} moved none by more than {:.1e} of its "
      "largest\n",
      report.checked, type, report.rounding);
  return outcome;
}

Result<ExportOutcome> export_gguf(const format::StoredModel& model, const ExportOptions& options, CancelToken& cancel) {
  exports::GgufOptions how{.pre = options.pre};
  if (!options.type.empty()) how.type = options.type;
  if (options.mmproj && !options.pre.empty()) return invalid_argument("--pre is for text, which --mmproj leaves out");
  AUTOGLM_ASSIGN_OR_RETURN(auto written,
                           options.mmproj
                               ? exports::write_gguf_vision(model, how.type, options.output, options.overwrite, cancel)
                               : exports::write_gguf(model, how, options.output, options.overwrite, cancel));
  auto& [file, report] = written;
  AUTOGLM_RETURN_IF_ERROR(file.publish());
  ExportOutcome outcome;
  outcome.json = nlohmann::ordered_json{{"format", "gguf"},
                                        {"output", file.target().string()},
                                        {"architecture", report.architecture},
                                        {"bytes", report.bytes},
                                        {"types", report.types},
                                        {"weighted", report.weighted},
                                        {"activations_dropped", report.had_activations},
                                        {"left_out", report.left_out},
                                        {"checked", report.checked},
                                        {"difference", report.difference}}
                     .dump(2);
  outcome.summary = fmt::format("{}: {}, architecture {}: {}{}\n", file.target().string(), format_bytes(report.bytes),
                                report.architecture, listed(report.types), left_out_words(report.left_out));
  if (report.left_out > 0 && model.config.family == format::Family::kGlm4v) {
    outcome.summary += "its vision part is a file of its own: --mmproj\n";
  }
  if (report.had_activations) {
    outcome.summary += "the artifact quantizes activations too; llama.cpp does that in its own way\n";
  }
  if (report.weighted > 0) {
    outcome.summary += fmt::format("{} tensors are rounded by what calibration saw of their inputs\n", report.weighted);
  }
  outcome.summary += fmt::format("checked: {} tensors read back, none off by more than {:.1e} of its largest\n",
                                 report.checked, report.difference);
  return outcome;
}

nlohmann::ordered_json onnx_json(const exports::OnnxReport& report, const fs::path& folder, const std::string& format) {
  return {{"format", format},          {"output", folder.string()},  {"opset", report.opset},
          {"nodes", report.nodes},     {"bytes", report.bytes},      {"external_data", report.is_external},
          {"types", report.types},     {"widened", report.widened},  {"left_out", report.left_out},
          {"checked", report.checked}, {"rounding", report.rounding}};
}

std::string onnx_summary(const exports::OnnxReport& report, const fs::path& folder) {
  std::string out =
      fmt::format("{}: {}, opset {}, {} nodes; tensors: {}{}\n", folder.string(), format_bytes(report.bytes),
                  report.opset, report.nodes, listed(report.types), left_out_words(report.left_out));
  if (report.widened > 0) {
    out += fmt::format("{} matrices are held in more bits than their integers have\n", report.widened);
  }
  return out;
}

std::string onnx_checked(const exports::OnnxReport& report) {
  const std::string found =
      report.rounding > 0 ? fmt::format("FLOAT16 scales moved no weight by more than {:.1e} of itself", report.rounding)
                          : "all as the artifact says";
  return fmt::format("checked: {} tensors read back, {}\n", report.checked, found);
}

Result<ExportOutcome> export_onnx(const format::StoredModel& model, const ExportOptions& options, CancelToken& cancel) {
  const exports::OnnxOptions how{
      .preset = options.preset, .operators = options.operators, .type = options.type, .opset = options.opset};
  AUTOGLM_ASSIGN_OR_RETURN(const auto written,
                           write_folder<exports::OnnxReport>(options, cancel, [&](format::FolderWriter& folder) {
                             return exports::write_onnx(model, how, folder, cancel);
                           }));
  const auto& [report, folder] = written;
  return ExportOutcome{.json = onnx_json(report, folder, "onnx").dump(2),
                       .summary = onnx_summary(report, folder) + onnx_checked(report)};
}

Result<ExportOutcome> export_tensorrt(const format::StoredModel& model, const ExportOptions& options,
                                      CancelToken& cancel) {
  const exports::TensorRtOptions how{.type = options.type,
                                     .max_batch = options.max_batch != 0 ? options.max_batch : 1,
                                     .max_length = options.max_length,
                                     .engine = options.engine};
  AUTOGLM_ASSIGN_OR_RETURN(const auto written,
                           write_folder<exports::TensorRtReport>(options, cancel, [&](format::FolderWriter& folder) {
                             return exports::write_tensorrt(model, how, folder, cancel);
                           }));
  const auto& [report, folder] = written;
  auto json = onnx_json(report.onnx, folder, "tensorrt");
  json["ranges"] = report.ranges;
  json["engine"] = options.engine;
  ExportOutcome outcome{.json = json.dump(2), .summary = onnx_summary(report.onnx, folder)};
  if (report.ranges > 0) outcome.summary += fmt::format("calibration.cache: {} ranges\n", report.ranges);
  outcome.summary += onnx_checked(report.onnx);
  return outcome;
}

Result<ExportOutcome> export_torchscript(const format::StoredModel& model, const ExportOptions& options,
                                         CancelToken& cancel) {
  AUTOGLM_ASSIGN_OR_RETURN(const auto written,
                           write_folder<exports::TorchScriptReport>(options, cancel, [&](format::FolderWriter& folder) {
                             return exports::write_torchscript(model, folder, cancel);
                           }));
  const auto& [report, folder] = written;
  ExportOutcome outcome;
  outcome.json = nlohmann::ordered_json{{"format", "torchscript"},
                                        {"output", folder.string()},
                                        {"bytes", report.bytes},
                                        {"quantized", report.quantized},
                                        {"integer_products", report.integer_products},
                                        {"left_out", report.left_out},
                                        {"checked", report.checked}}
                     .dump(2);
  outcome.summary = fmt::format("{}: {}; {} matrices of integers, {} of them multiplied as integers{}\n",
                                folder.string(), format_bytes(report.bytes), report.quantized, report.integer_products,
                                left_out_words(report.left_out));
  outcome.summary += fmt::format("checked: {} tensors read back, the artifact's bytes\n", report.checked);
  return outcome;
}

Result<ExportOutcome> export_layout(const exports::WeightLayout& layout, const format::StoredModel& model,
                                    const ExportOptions& options, CancelToken& cancel) {
  int64_t stored = other_bytes(model);  // and the weights, which the layouts do not make much larger
  for (const auto& module : model.layout.modules()) stored += model.weight_bytes(module);
  AUTOGLM_ASSIGN_OR_RETURN(auto writer, open_writer(options, stored, cancel));
  AUTOGLM_ASSIGN_OR_RETURN(const auto report, exports::write_layout(model, layout, writer, cancel));
  const int64_t bytes = writer.tensor_bytes();
  AUTOGLM_RETURN_IF_ERROR(writer.commit());
  ExportOutcome outcome;
  outcome.json =
      nlohmann::ordered_json{
          {"format", options.format},    {"output", writer.target().string()}, {"bytes", bytes},
          {"matrices", report.matrices}, {"checked", report.checked},          {"rounding", report.rounding}}
          .dump(2);
  outcome.summary = fmt::format(
      "{}: {}; {} matrices in {}'s layout\nchecked: {} tensors read back, by the layout's own rule; FP16 scales moved "
      "no weight by more than {:.1e} of its matrix's largest\n",
      writer.target().string(), format_bytes(bytes), report.matrices, options.format, report.checked, report.rounding);
  return outcome;
}

Result<ExportOutcome> export_gptq(const format::StoredModel& model, const ExportOptions& options, CancelToken& cancel) {
  return export_layout(*exports::gptq_layout(), model, options, cancel);
}

Result<ExportOutcome> export_awq(const format::StoredModel& model, const ExportOptions& options, CancelToken& cancel) {
  return export_layout(*exports::awq_layout(), model, options, cancel);
}

using Exporter = Result<ExportOutcome> (*)(const format::StoredModel&, const ExportOptions&, CancelToken&);

struct Format {
  std::string name;
  Exporter run;
  bool is_folder = false;  ///< of Hugging Face's kind, which chatglm's own code alone would load
};

const std::vector<Format>& formats() {
  static const std::vector<Format> all = {{"hf", export_hf, true},      {"gguf", export_gguf},
                                          {"onnx", export_onnx},        {"gptq", export_gptq, true},
                                          {"awq", export_awq, true},    {"torchscript", export_torchscript},
                                          {"tensorrt", export_tensorrt}};
  return all;
}

/// An option that is given, and the formats that know it.
struct OptionUse {
  bool given;
  std::string name;
  std::vector<std::string> formats;
};

Status check_options(const ExportOptions& options) {
  const OptionUse uses[] = {{!options.type.empty(), "--type", {"hf", "gguf", "onnx", "tensorrt"}},
                            {options.max_shard > 0, "--max-shard", {"hf", "gptq", "awq"}},
                            {!options.pre.empty(), "--pre", {"gguf"}},
                            {options.mmproj, "--mmproj", {"gguf"}},
                            {!options.operators.empty(), "--" + options.operators, {"onnx"}},
                            {!options.preset.empty(), "--preset", {"onnx"}},
                            {options.opset != 0, "--opset", {"onnx"}},
                            {options.max_batch != 0, "--max-batch", {"tensorrt"}},
                            {options.max_length != 0, "--max-length", {"tensorrt"}},
                            {options.engine, "--engine", {"tensorrt"}}};
  for (const OptionUse& use : uses) {
    if (!use.given || std::find(use.formats.begin(), use.formats.end(), options.format) != use.formats.end()) continue;
    return invalid_argument(
        fmt::format("{} means something for --format {} alone", use.name, fmt::join(use.formats, ", ")));
  }
  if (options.max_shard > 0 && options.max_shard < kLeastShard) {
    return invalid_argument(
        fmt::format("--max-shard is {}; give at least {}", options.max_shard, format_bytes(kLeastShard)));
  }
  return ok_status();
}

/// Of families and formats, the pairs that do not exist.
Status check_family(const Format& format, format::Family family) {
  if (!format.is_folder || family != format::Family::kChatGlm) return ok_status();
  std::vector<std::string> others;
  for (const Format& other : formats()) {
    if (!other.is_folder) others.push_back(other.name);
  }
  return invalid_argument(
      fmt::format("{}: chatglm is loaded by code of its own alone; its formats are {}, or make it a glm model "
                  "(`autoglm compress -q bf16`), which has them all",
                  format.name, fmt::join(others, ", ")));
}

Result<ExportOutcome> run(const ExportOptions& options, CancelToken& cancel) {
  std::vector<std::string> names;
  for (const Format& format : formats()) names.push_back(format.name);
  if (options.format.empty()) {
    return invalid_argument(fmt::format("no format is named; give --format {}", fmt::join(names, ", ")));
  }
  const auto format =
      std::find_if(formats().begin(), formats().end(), [&](const Format& one) { return one.name == options.format; });
  if (format == formats().end()) return invalid_argument(unknown_word("format", options.format, names));
  AUTOGLM_RETURN_IF_ERROR(check_options(options));
  if (options.output.empty()) return invalid_argument("no output is named; give -o OUT");
  std::error_code error;
  if (api::is_gguf(options.model)) {
    if (options.format != "hf") {
      return invalid_argument(fmt::format("{} is made from a folder: first --format hf, then --format {} of that",
                                          options.format, options.format));
    }
    return export_from_gguf(options, cancel);
  }
  AUTOGLM_ASSIGN_OR_RETURN(const fs::path folder, api::find_model(options.model, cancel));
  AUTOGLM_ASSIGN_OR_RETURN(const auto model, format::StoredModel::open(folder));
  AUTOGLM_RETURN_IF_ERROR(check_family(*format, model.config.family));
  std::vector<fs::path> read = {folder};  // and its files, where they lie if these are links
  for (const fs::path& part : {folder, folder / "additional_chat_templates"}) {
    for (const auto& entry : fs::directory_iterator(part, error)) {
      if (entry.is_regular_file(error)) read.push_back(entry.path());
    }
  }
  for (const fs::path& file : model.checkpoint.files()) read.push_back(file);
  for (const fs::path& file : read) {
    if (!fs::exists(file, error) || !format::lies_in(file, options.output)) continue;
    return invalid_argument(
        fmt::format("{}: the output would replace {}, which is in use or lies in the model's "
                    "folder; name another",
                    options.output, format::display_path(file)));
  }
  return format->run(model, options, cancel);
}

}  // namespace

Result<ExportOutcome> export_model(const ExportOptions& options, CancelToken& cancel) {
  return tensor::guarded([&] { return run(options, cancel); });
}

}  // namespace autoglm
