#include "compress/export/onnx.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "compress/export/genai_config.h"
#include "compress/export/onnx_decoder.h"
#include "compress/export/onnx_file.h"
#include "compress/export/onnx_weights.h"
#include "core/base/suggest.h"
#include "core/format/small_files.h"

namespace autoglm::exports {
namespace {

constexpr int64_t kLeastOpset = 13, kUsualOpset = 21, kMostOpset = 25;

/// The version of the file format that came with an opset.
int64_t ir_version(int64_t opset) {
  constexpr std::pair<int64_t, int64_t> kSince[] = {{25, 13}, {24, 12}, {23, 11}, {21, 10}, {19, 9}, {15, 8}};
  for (const auto& [first, version] : kSince) {
    if (opset >= first) return version;
  }
  return 7;
}

Result<OnnxTarget> target_of(const OnnxOptions& options) {
  const std::vector<std::string> presets = {"avx512_vnni", "avx2", "arm64", "tensorrt"}, types = {"fp32", "fp16"};
  const auto is_known = [](const std::vector<std::string>& words, const std::string& word) {
    return word.empty() || std::find(words.begin(), words.end(), word) != words.end();
  };
  if (!is_known(presets, options.preset)) return invalid_argument(unknown_word("preset", options.preset, presets));
  if (!is_known(types, options.type)) return invalid_argument(unknown_word("value of --type", options.type, types));
  if (options.opset != 0 && (options.opset < kLeastOpset || options.opset > kMostOpset)) {
    return invalid_argument(fmt::format("--opset is {}; give {} to {}", options.opset, kLeastOpset, kMostOpset));
  }
  OnnxTarget target{.tensorrt = options.preset == "tensorrt"};
  if (target.tensorrt && options.operators == "matmul-nbits") {
    return invalid_argument("MatMulNBits is an operator of onnxruntime; TensorRT does not know it");
  }
  const bool is_half = options.type.empty() ? target.tensorrt : options.type == "fp16";
  target.compute = is_half ? onnx::TensorProto::FLOAT16 : onnx::TensorProto::FLOAT;
  const bool prefers_nbits = !options.preset.empty() && !target.tensorrt;
  target.matmul_nbits = options.operators.empty() ? prefers_nbits : options.operators == "matmul-nbits";
  target.unsigned_inputs = options.preset == "avx512_vnni" || options.preset == "avx2";
  target.unsigned_weights = options.preset == "avx2";
  return target;
}

void add_opset(onnx::ModelProto& model, std::string_view domain, int64_t version) {
  auto& opset = *model.add_opset_import();
  opset.set_domain(std::string(domain));
  opset.set_version(version);
}

}  // namespace

Result<OnnxReport> write_onnx(const format::StoredModel& model, const OnnxOptions& options,
                              format::FolderWriter& folder, CancelToken& cancel) {
  AUTOGLM_RETURN_IF_ERROR(check_onnx_decoder(model.config));
  AUTOGLM_ASSIGN_OR_RETURN(const OnnxTarget target, target_of(options));
  AUTOGLM_ASSIGN_OR_RETURN(OnnxWeights weights, OnnxWeights::plan(model, target));
  const int64_t wanted = options.opset > 0 ? options.opset : kUsualOpset;
  OnnxGraph graph(wanted);
  add_onnx_decoder(model, weights, graph);
  const OnnxGraph::Need& needed = graph.needed();
  if (options.opset > 0 && needed.opset > options.opset) {
    return invalid_argument(fmt::format("--opset {0}: {1} came with opset {2}; give {2} or later", options.opset,
                                        needed.what, needed.opset));
  }
  const int64_t opset = std::max(wanted, needed.opset);

  onnx::ModelProto proto;
  proto.set_ir_version(ir_version(opset));
  proto.set_producer_name("autoglm");
  add_opset(proto, "", opset);
  if (graph.has_contrib()) add_opset(proto, "com.microsoft", 1);
  proto.mutable_graph()->Swap(&graph.proto());
  proto.mutable_graph()->set_name(model.config.model_type);

  OnnxReport report{.opset = opset,
                    .nodes = proto.graph().node_size(),
                    .inputs = weights.inputs(),
                    .widened = weights.widened(),
                    .left_out = std::ssize(model.layout.others(model.checkpoint)),
                    .checked = std::ssize(weights.tensors())};
  for (const OnnxTensor& tensor : weights.tensors()) {
    ++report.types[onnx::TensorProto::DataType_Name(static_cast<onnx::TensorProto::DataType>(tensor.type))];
  }
  AUTOGLM_RETURN_IF_ERROR(format::copy_small_files(model.checkpoint.folder(), folder));  // some of which ours replace
  AUTOGLM_RETURN_IF_ERROR(OnnxFile::write(folder, proto, weights.tensors(), [&](OnnxFile& file) -> Status {
    AUTOGLM_RETURN_IF_ERROR(weights.write(file, cancel));
    report.bytes = file.bytes();
    report.is_external = file.is_external();
    AUTOGLM_ASSIGN_OR_RETURN(report.rounding, weights.read_back(file, cancel));
    return ok_status();
  }));
  AUTOGLM_RETURN_IF_ERROR(folder.write_file("config.json", model.config.to_json({})));
  AUTOGLM_RETURN_IF_ERROR(
      folder.write_file("genai_config.json", genai_config(model.config, has_fused_attention(model.config, target))));
  return report;
}

}  // namespace autoglm::exports
