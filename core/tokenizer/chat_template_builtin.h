#pragma once
/// The chat formats of the ChatGLM releases that put theirs into Python code instead of a template.
#include <nlohmann/json.hpp>
#include <string_view>

#include "core/base/status.h"

namespace autoglm::tokenizer {

/// The format of a folder without a template, as a Jinja template. `config` is its config.json, `tokenizer_config` its
/// tokenizer_config.json (either may be null), `code` its tokenization_chatglm.py (empty where absent), read as text.
/// kBadInput when the family is not known to have a format of its own, or its releases cannot be told apart.
Result<std::string_view> builtin_chat_template(const nlohmann::ordered_json& config,
                                               const nlohmann::ordered_json& tokenizer_config, std::string_view code);

}  // namespace autoglm::tokenizer
