#pragma once
/// onnx: an artifact as an ONNX model with a cache (onnx_decoder.h), for onnxruntime and what reads ONNX.
///
/// The folder: model.onnx (above 1 GiB with model.onnx.data), config.json and the tokenizer's files, and
/// genai_config.json for ONNX Runtime GenAI. Integers and scales are the artifact's own (onnx_weights.h); all else is
/// computed in float32, or in float16 but for norms, rotary angles and routing.
///
/// Presets choose what a target's kernels want; the numbers stay the same:
///   avx512_vnni   activations UINT8 and weights INT8, whose products VNNI sums in 32 bits
///   avx2          both UINT8, for sums of 16 bits would saturate with signed weights
///   arm64         both INT8
///   tensorrt      INT8 and INT4 by TensorRT's rules (tensorrt.h)
/// On the first three, weights alone are multiplied by onnxruntime's MatMulNBits, and attention is its own too.
#include <cstdint>
#include <map>
#include <string>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/folder_writer.h"
#include "core/format/stored_model.h"

namespace autoglm::exports {

struct OnnxOptions {
  std::string preset;  ///< "": activations INT8, weights INT8, INT4 and INT2
  std::string
      operators;      ///< qdq: DequantizeLinear and MatMul; matmul-nbits: onnxruntime's own; "": the preset's, or qdq
  std::string type;   ///< fp32, fp16; "": fp16 for TensorRT, else fp32
  int64_t opset = 0;  ///< 13 to 25; 0: 21, or 25 where INT2 needs it
};

struct OnnxReport {
  int64_t opset = 0;
  int64_t nodes = 0;
  int64_t bytes = 0;                          ///< of model.onnx and model.onnx.data
  bool is_external = false;                   ///< there is a model.onnx.data
  std::map<std::string, int64_t> types;       ///< tensors of each, by ONNX's word
  std::map<std::string, std::string> inputs;  ///< for each linear, the graph's value that it reads
  int64_t widened = 0;                        ///< matrices whose integers are held in more bits than they have
  int64_t left_out = 0;                       ///< tensors that are no part of the decoder: vision tower, MTP layers
  int64_t checked = 0;                        ///< tensors read back from the file, equal to the artifact but for scales
  double rounding = 0;                        ///< what FLOAT16 scales moved a weight by at most, as a share of itself
};

/// Streams `model` into `folder` and reads it back; the caller commits. Memory: a few tens of MB, and a few times the
/// graph, which grows with layers and experts. kInvalidArgument: options that are unknown or contradict
/// each other, or what has no place in ONNX, in the opset or by the preset (named). kBadInput: a tensor
/// that cannot be decoded. kResourceExhausted, kCancelled.
Result<OnnxReport> write_onnx(const format::StoredModel& model, const OnnxOptions& options,
                              format::FolderWriter& folder, CancelToken& cancel);

}  // namespace autoglm::exports
