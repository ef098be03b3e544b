#pragma once
/// tokenizer.model of GLM-4's first release: a byte-level BPE as tiktoken writes it, one "BASE64 RANK" line per token,
/// the rank being the id. Special tokens are in tokenizer_config.json.
#include <memory>
#include <string_view>

#include "core/base/status.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/tokenizer_config.h"

namespace autoglm::tokenizer {

/// Whether the file begins with such a line.
bool looks_like_tiktoken(std::string_view text);

/// kBadInput names the line that is broken. A config without added tokens gets those of GLM-4.
Result<std::unique_ptr<Tokenizer>> parse_tiktoken(std::string_view text, const TokenizerConfig& config);

}  // namespace autoglm::tokenizer
