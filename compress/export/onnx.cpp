#include "compress/export/onnx.h"

#include <fmt/format.h>

#include <utility>

#include "compress/export/genai_config.h"
#include "compress/export/onnx_decoder.h"
#include "compress/export/onnx_file.h"
#include "compress/export/onnx_weights.h"
#include "core/format/small_files.h"

namespace autoglm::exports {
namespace {

/// An opset and the version of the file format that came with it.
struct Version {
  int64_t opset, ir;
};
constexpr Version kUsual{21, 10};    // the first with INT4 and blocks in DequantizeLinear
constexpr Version kTwoBits{25, 13};  // the first with INT2

void add_opset(onnx::ModelProto& model, std::string_view domain, int64_t version) {
  auto& opset = *model.add_opset_import();
  opset.set_domain(std::string(domain));
  opset.set_version(version);
}

}  // namespace

Result<OnnxReport> write_onnx(const format::StoredModel& model, const OnnxOptions& options,
                              format::FolderWriter& folder, CancelToken& cancel) {
  AUTOGLM_RETURN_IF_ERROR(check_onnx_decoder(model.config));
  AUTOGLM_ASSIGN_OR_RETURN(OnnxWeights weights, OnnxWeights::plan(model, options.matmul_nbits));
  OnnxGraph graph;
  add_onnx_decoder(model, weights, graph);

  const Version version = weights.has_two_bits() ? kTwoBits : kUsual;
  onnx::ModelProto proto;
  proto.set_ir_version(version.ir);
  proto.set_producer_name("autoglm");
  add_opset(proto, "", version.opset);
  if (graph.has_contrib()) add_opset(proto, "com.microsoft", 1);
  proto.mutable_graph()->Swap(&graph.proto());
  proto.mutable_graph()->set_name(model.config.model_type);

  OnnxReport report{.opset = version.opset,
                    .nodes = proto.graph().node_size(),
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
    return weights.read_back(file, cancel);
  }));
  AUTOGLM_RETURN_IF_ERROR(folder.write_file("config.json", model.config.to_json({})));
  AUTOGLM_RETURN_IF_ERROR(folder.write_file("genai_config.json", genai_config(model.config)));
  return report;
}

}  // namespace autoglm::exports
