#pragma once
/// A model folder's tokenizer as GGUF metadata, and back.
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "compress/export/gguf_file.h"
#include "compress/export/gguf_reader.h"
#include "core/base/status.h"
#include "core/format/model_config.h"

namespace autoglm::exports {

/// Vocabulary, token types, merges or scores, special tokens and chat template of FOLDER/tokenizer.json (byte-level
/// BPE), else of tokenizer.model (sentencepiece of kind BPE). `pre` names llama.cpp's pre-tokenizer; "" takes the one
/// whose rules are those of the file. kInvalidArgument: a `pre` that llama.cpp does not know, or for a
/// tokenizer.model. kBadInput: no tokenizer that GGUF
/// has a kind for, rules that no known pre-tokenizer has (then `pre` must be given), ids beyond the vocabulary.
Result<std::vector<GgufMetadata>> tokenizer_metadata(const std::filesystem::path& folder,
                                                     const format::ModelConfig& config, const std::string& pre);

/// Ids that a file names: what ends an answer (the end of text first), what pads, what text begins with.
struct TokenizerIds {
  std::vector<int64_t> eos;
  std::optional<int64_t> pad, bos;
};
Result<TokenizerIds> tokenizer_ids(const GgufReader& reader);

/// The reverse of tokenizer_metadata: tokenizer.json, tokenizer_config.json and the chat templates of a file, by name.
/// kBadInput: a kind of vocabulary or pre-tokenizer that is not read (named), lists of different lengths, more
/// tokens than the embedding's `vocab_size` rows.
Result<std::vector<std::pair<std::string, std::string>>> tokenizer_files(const GgufReader& reader, int64_t vocab_size);

}  // namespace autoglm::exports
