#pragma once
/// tokenizer_config.json, as far as a tokenizer.model needs it.
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/tokenizer/added_tokens.h"

namespace autoglm::tokenizer {

struct TokenizerConfig {
  std::string tokenizer_class;           ///< "ChatGLMTokenizer", "LlamaTokenizer", ...
  std::vector<AddedToken> added_tokens;  ///< `added_tokens_decoder`, by id
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;
};

/// Reads FOLDER/tokenizer_config.json; a folder without one gives the defaults. kBadInput names what is broken.
Result<TokenizerConfig> read_tokenizer_config(const std::filesystem::path& folder);

}  // namespace autoglm::tokenizer
