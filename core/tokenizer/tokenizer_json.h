#pragma once
/// Reader of tokenizer.json, the format of the `tokenizers` library.
#include <memory>
#include <string_view>

#include "core/base/status.h"
#include "core/tokenizer/tokenizer.h"

namespace autoglm::tokenizer {

/// The tokenizer that `text`, a whole tokenizer.json, describes. kBadInput names the component or token that is broken,
/// or of a kind that is not supported (the model must be BPE).
Result<std::unique_ptr<Tokenizer>> parse_tokenizer_json(std::string_view text);

}  // namespace autoglm::tokenizer
