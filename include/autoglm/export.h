#pragma once
/// export_model(): a finished artifact, or any checkpoint, in the format of other software.
#include <autoglm/cancel.h>
#include <autoglm/status.h>

#include <cstdint>
#include <string>

namespace autoglm {

struct ExportOptions {
  std::string model;      ///< an artifact's folder, or any checkpoint that `compress` reads; for hf a GGUF file too
  std::string output;     ///< what to write
  std::string format;     ///< hf: a plain Hugging Face folder; gguf: a file for llama.cpp; onnx: a folder for
                          ///< onnxruntime; gptq, awq: folders in those quantizers' layouts; torchscript: a folder for
                          ///< torch::jit::load; tensorrt: a folder for TensorRT
  std::string type;       ///< of the weights. hf: bf16, fp16, fp32; "": the model's own. gguf: fp32, fp16, bf16, q8_0,
                          ///< q2_k to q6_k, q4_0 to q5_1; auto or "": what holds the artifact's integers without
                          ///< rounding them again. onnx, tensorrt: fp32, fp16
  std::string pre;        ///< gguf: llama.cpp's pre-tokenizer; "": found by the tokenizer's rules
  bool mmproj = false;    ///< gguf: the vision part alone, which llama.cpp takes beside the text's file
  std::string operators;  ///< onnx: qdq or "": DequantizeLinear and MatMul, which every reader knows; matmul-nbits:
                          ///< onnxruntime's own operators
  std::string preset;     ///< onnx: avx512_vnni, avx2, arm64, tensorrt: what that target's kernels want
  int64_t opset = 0;      ///< onnx: 13 to 25; 0: 21, or 25 where INT2 needs it
  int64_t max_batch = 0;  ///< tensorrt: sequences at once; 0: 1
  int64_t max_length =
      0;                ///< tensorrt: tokens of a sequence, cache included; 0: 4096, or what the model was trained for
  bool engine = false;  ///< tensorrt: build the engine too, where this program was built with TensorRT
  bool overwrite = false;  ///< replace an output that exists
  int64_t max_shard = 0;   ///< hf: bytes of one weight file; 0: 5 GB
};

struct ExportOutcome {
  std::string json;     ///< what was written and what was checked
  std::string summary;  ///< the same for people, in a line or two
};

/// Streams: beside LibTorch's own, memory is a few tens of MB, with gptq and awq a matrix. What was written is read
/// back before it is put in place. Errors as of `compress`.
Result<ExportOutcome> export_model(const ExportOptions& options, CancelToken& cancel = CancelToken::global());

}  // namespace autoglm
