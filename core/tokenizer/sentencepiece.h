#pragma once
/// tokenizer.model as sentencepiece writes it: Llama's, and ChatGLM2's and ChatGLM3's with their special tokens.
///
/// ChatGLM adds [MASK], [gMASK], [sMASK], sop, eop and, since ChatGLM3, <|system|>, <|user|>, <|assistant|>,
/// <|observation|> after the last piece; a sequence begins with [gMASK] sop. The words "sop" and "eop" in text are
/// their tokens only directly after another special token: elsewhere they are part of words ("sophisticated").
#include <memory>
#include <string_view>

#include "core/base/status.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/tokenizer_config.h"

namespace autoglm::tokenizer {

/// Which tokens go with the pieces.
enum class SentencePieceFamily { kPlain, kChatGlm2, kChatGlm3 };

/// kBadInput says what is broken. Never aborts and prints nothing, whatever the bytes.
Result<std::unique_ptr<Tokenizer>> parse_sentencepiece(std::string_view bytes, const TokenizerConfig& config,
                                                       SentencePieceFamily family);

}  // namespace autoglm::tokenizer
