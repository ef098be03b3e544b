#pragma once
/// export_model(): a finished artifact, or any checkpoint, in the format of other software.
#include <autoglm/cancel.h>
#include <autoglm/status.h>

#include <cstdint>
#include <string>

namespace autoglm {

struct ExportOptions {
  std::string model;       ///< an artifact's folder, or any checkpoint that `compress` reads
  std::string output;      ///< what to write
  std::string format;      ///< hf: a plain Hugging Face folder; gguf: a file for llama.cpp; onnx: a folder for
                           ///< onnxruntime
  std::string type;        ///< of the weights. hf: bf16, fp16, fp32; "": the model's own. gguf: fp32, fp16, bf16, q8_0,
                           ///< q2_k to q6_k, q4_0 to q5_1; auto or "": what holds the artifact's integers without
                           ///< rounding them again
  std::string pre;         ///< gguf: llama.cpp's pre-tokenizer; "": found by the tokenizer's rules
  std::string operators;   ///< onnx: qdq or "": DequantizeLinear and MatMul, which every reader knows; matmul-nbits:
                           ///< onnxruntime's own operator
  bool overwrite = false;  ///< replace an output that exists
  int64_t max_shard = 0;   ///< hf: bytes of one weight file; 0: 5 GB
};

struct ExportOutcome {
  std::string json;     ///< what was written and what was checked
  std::string summary;  ///< the same for people, in a line or two
};

/// Streams: peak memory does not grow with the model. What was written is read back before it is put in place. Errors
/// as of `compress`.
Result<ExportOutcome> export_model(const ExportOptions& options, CancelToken& cancel = CancelToken::global());

}  // namespace autoglm
