#pragma once
/// A model folder's tokenizer as GGUF metadata.
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "compress/export/gguf_file.h"
#include "core/base/status.h"
#include "core/format/model_config.h"

namespace autoglm::exports {

/// Vocabulary, token types, merges, special tokens and chat template of FOLDER/tokenizer.json (byte-level BPE). `pre`
/// names llama.cpp's pre-tokenizer; "" takes the one whose rules are those of the file. kBadInput: no tokenizer that
/// GGUF has a kind for, rules that no known pre-tokenizer has (then `pre` must be given), ids beyond the vocabulary.
Result<std::vector<GgufMetadata>> tokenizer_metadata(const std::filesystem::path& folder,
                                                     const format::ModelConfig& config, const std::string& pre);

}  // namespace autoglm::exports
