#pragma once
/// genai_config.json: what ONNX Runtime GenAI wants to know of a model.onnx beside it
/// (onnxruntime.ai/docs/genai/reference/config.html).
#include <string>

#include "core/format/model_config.h"

namespace autoglm::exports {

/// For a decoder whose inputs and outputs are named as onnx_decoder.h has them; greedy unless the caller asks for
/// sampling.
std::string genai_config(const format::ModelConfig& config);

}  // namespace autoglm::exports
