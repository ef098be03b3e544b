#pragma once
/// gguf --mmproj: the vision part of a glm4v model as a file of its own, which llama.cpp takes beside the text's
/// (architecture clip, projector glm4v). Convolutions, position embeddings, norms and biases are F32.
#include <filesystem>
#include <string>
#include <utility>

#include "compress/export/gguf.h"

namespace autoglm::exports {

/// As write_gguf, for tensors outside the decoder. `type`: of matrices, fp32, fp16, bf16 or auto (their own).
/// kInvalidArgument: a model without a vision part, or with one that llama.cpp has no place for (named). kBadInput: a
/// config.json or tensor that is damaged or missing (named). Memory: a few MB.
Result<std::pair<GgufFile, GgufReport>> write_gguf_vision(const format::StoredModel& model, const std::string& type,
                                                          const std::filesystem::path& output, bool overwrite,
                                                          CancelToken& cancel);

}  // namespace autoglm::exports
