#pragma once
/// genai_config.json: what ONNX Runtime GenAI wants to know of a model.onnx beside it
/// (onnxruntime.ai/docs/genai/reference/config.html).
#include <string>

#include "core/format/model_config.h"

namespace autoglm::exports {

/// For a decoder whose inputs and outputs are named as onnx_decoder.h has them; greedy unless the caller asks for
/// sampling. `cache_in_place`: the graph fills one cache that has room for `max_length` tokens, at most 8192 unless the
/// caller asks for more.
std::string genai_config(const format::ModelConfig& config, bool cache_in_place);

}  // namespace autoglm::exports
