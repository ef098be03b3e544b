#include <autoglm/export.h>

#include "apps/cli/common.h"

namespace autoglm::cli {

Command add_export(CLI::App& root) {
  Command command = add_command(root, "export", "Write an artifact in the format of other software",
                                "autoglm export demo-int4 --format gguf -o demo-int4.gguf");
  CLI::App& app = *command.app;
  auto options = std::make_shared<ExportOptions>();
  app.add_option("model,--model-path", options->model,
                 "an artifact's folder, or any checkpoint; with hf a GGUF file too");
  app.add_option("-o,--output", options->output, "what to write");
  app.add_option(
      "-f,--format", options->format,
      "hf: a plain Hugging Face folder, for software that knows nothing of quantization, and for this program where "
      "the "
      "model is a GGUF file; gguf: a file for "
      "llama.cpp; onnx: a folder for onnxruntime and ONNX Runtime GenAI; gptq, awq: folders in the layouts of those "
      "quantizers, for tools that know no other; torchscript: a program for torch.jit.load, a format that PyTorch "
      "itself "
      "calls deprecated; tensorrt: a folder for NVIDIA TensorRT");
  app.add_option(
      "--type", options->type,
      "of the weights; hf: bf16, fp16, fp32 [the model's own]; gguf: fp32, fp16, bf16, q8_0, q2_k to q6_k, "
      "q4_0 to q5_1 [auto: what holds the artifact's integers as they are]; onnx: fp32, fp16 [fp32]; tensorrt: "
      "fp32, fp16 [fp16]");
  app.add_option("--pre", options->pre, "gguf: llama.cpp's pre-tokenizer [found by the tokenizer's rules]");
  app.add_flag("--mmproj", options->mmproj, "gguf: the vision part of a glm4v model alone, for llama.cpp's --mmproj");
  auto* pairs = app.add_flag_callback(
      "--qdq", [options] { options->operators = "qdq"; },
      "onnx: DequantizeLinear before each MatMul, for any reader of ONNX [yes]");
  app.add_flag_callback(
         "--matmul-nbits", [options] { options->operators = "matmul-nbits"; },
         "onnx: onnxruntime's MatMulNBits in place of the two, and its own attention")
      ->excludes(pairs);
  app.add_option("--preset", options->preset,
                 "onnx: what the kernels of a target want: avx512_vnni, avx2, arm64 (as --matmul-nbits, unless --qdq "
                 "is given), tensorrt");
  app.add_option("--opset", options->opset, "onnx: 13 to 25 [21, or 25 where INT2 needs it]");
  app.add_option("--max-batch", options->max_batch, "tensorrt: sequences at once [1]");
  app.add_option("--max-length", options->max_length,
                 "tensorrt: tokens of a sequence, cache included [4096, or what the model was trained for]");
  app.add_flag("--engine", options->engine, "tensorrt: build the engine for this machine's GPU too");
  app.add_flag("--overwrite", options->overwrite, "replace an output that exists");
  add_bytes(app, "--max-shard", options->max_shard, "hf, gptq, awq: size of one weight file [5G]");
  command.run = [options, output = command.output] {
    const auto outcome = export_model(*options);
    if (!outcome.ok()) return fail(outcome.status());
    print(*output, outcome->json, outcome->summary);
    return 0;
  };
  return command;
}

}  // namespace autoglm::cli
