#pragma once
/// onnx: an artifact as an ONNX model with a cache (onnx_decoder.h), for onnxruntime and what reads ONNX.
///
/// The folder: model.onnx (above 1 GiB with model.onnx.data), config.json and the tokenizer's files, and
/// genai_config.json for ONNX Runtime GenAI. Integers and scales are the artifact's own (onnx_weights.h); all else is
/// computed in float32.
#include <cstdint>
#include <map>
#include <string>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/folder_writer.h"
#include "core/format/stored_model.h"

namespace autoglm::exports {

struct OnnxOptions {
  bool matmul_nbits = false;  ///< onnxruntime's MatMulNBits in place of DequantizeLinear and MatMul
};

struct OnnxReport {
  int64_t opset = 0;
  int64_t nodes = 0;
  int64_t bytes = 0;                     ///< of model.onnx and model.onnx.data
  bool is_external = false;              ///< there is a model.onnx.data
  std::map<std::string, int64_t> types;  ///< tensors of each, by ONNX's word
  int64_t widened = 0;                   ///< matrices whose integers are held in more bits than they have
  int64_t left_out = 0;                  ///< tensors that are no part of the decoder: vision tower, MTP layers
  int64_t checked = 0;                   ///< tensors read back from the file, equal to the artifact
};

/// Streams `model` into `folder` and reads it back; the caller commits. Memory: a few tens of MB, and a few times the
/// graph, which grows with layers and experts. kInvalidArgument: what has no place in ONNX (named). kBadInput: a tensor
/// that cannot be decoded. kResourceExhausted, kCancelled.
Result<OnnxReport> write_onnx(const format::StoredModel& model, const OnnxOptions& options,
                              format::FolderWriter& folder, CancelToken& cancel);

}  // namespace autoglm::exports
