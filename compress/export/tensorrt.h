#pragma once
/// tensorrt: an ONNX model that obeys TensorRT's rules, and what building an engine of it takes.
///
/// The rules of explicit quantization (TensorRT's documentation, "Working with Quantized Types"), which a network with
/// any QuantizeLinear or DequantizeLinear is held to, and every network from TensorRT 11 on is strongly typed:
///   integers are symmetric, zero points 0 or absent; scales are constants of the type that is computed in
///   a DequantizeLinear stands between integers of weights and the product that uses them, a QuantizeLinear and a
///   DequantizeLinear before it for activations; those have one scale per tensor, weights of INT8 one per tensor or
///   output channel
///   INT4 is for weights alone, in blocks of 128 or 64 along the inputs
/// Weights of 2 and 3 bits are held as INT4, of 5 to 7 as INT8; those of INT8 whose activations are floats are legal,
/// but TensorRT computes them as floats.
///
/// The folder: model.onnx (onnx.h, preset tensorrt), config.json, the tokenizer's files, and
///   profiles.json        the least, usual and greatest shape of every input
///   calibration.cache    where the artifact knows the ranges of activations: TensorRT 10's text form, a line for each
///                        input of a linear, "NAME: " and its scale (the artifact's own, or largest magnitude / 127) as
///                        the 8 hexadecimal digits of a float32. TensorRT 10 reads it for networks without Q/DQ; 11 has
///                        no such networks.
///   model.engine         where it is asked for, and this build has TensorRT (tensorrt_engine.h)
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "compress/export/onnx.h"
#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/folder_writer.h"
#include "core/format/stored_model.h"

namespace autoglm::exports {

struct TensorRtOptions {
  std::string type;        ///< fp16 or fp32, which is computed in; "": fp16
  int64_t max_batch = 1;   ///< sequences at once
  int64_t max_length = 0;  ///< tokens of a sequence, cache included; 0: 4096, or what the model was trained for
  bool engine = false;     ///< build model.engine
};

/// The shapes of an input: when least, usual and greatest.
struct TensorRtProfile {
  std::string input;
  std::vector<int64_t> least, usual, greatest;
};

struct TensorRtReport {
  OnnxReport onnx;
  int64_t ranges = 0;  ///< lines of calibration.cache
};

/// Streams `model` into `folder` and reads it back; the caller commits. Memory and errors: as of write_onnx; and
/// kInvalidArgument: lengths that the model cannot have, or an engine where this build has no TensorRT.
Result<TensorRtReport> write_tensorrt(const format::StoredModel& model, const TensorRtOptions& options,
                                      format::FolderWriter& folder, CancelToken& cancel);

}  // namespace autoglm::exports
