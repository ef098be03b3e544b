#include "core/tokenizer/tokenizer_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "core/format/display.h"
#include "core/format/file.h"
#include "core/format/json.h"
#include "core/tokenizer/json_members.h"

namespace autoglm::tokenizer {
namespace {

Status parse_added_tokens(const Json& decoder, std::vector<AddedToken>& tokens) {
  if (!decoder.is_object()) return bad_input("must be an object");
  for (const auto& [key, spec] : decoder.items()) {
    int64_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0 || id >= kMaxTokenId) {
      return bad_input(fmt::format("{} is no token id", format::display(key, 40)));
    }
    AddedToken token;
    token.id = static_cast<int32_t>(id);
    AUTOGLM_ASSIGN_OR_RETURN(token.content, string_member(spec, "content"));
    AUTOGLM_ASSIGN_OR_RETURN(token.special, bool_member(spec, "special", false));
    AUTOGLM_ASSIGN_OR_RETURN(token.single_word, bool_member(spec, "single_word", false));
    AUTOGLM_ASSIGN_OR_RETURN(token.lstrip, bool_member(spec, "lstrip", false));
    AUTOGLM_ASSIGN_OR_RETURN(token.rstrip, bool_member(spec, "rstrip", false));
    if (token.content.empty()) return bad_input(fmt::format("the token {} is empty", id));
    tokens.push_back(std::move(token));
  }
  std::ranges::sort(tokens, {}, &AddedToken::id);
  return ok_status();
}

Result<TokenizerConfig> parse(const std::string& text) {
  AUTOGLM_ASSIGN_OR_RETURN(const Json document, format::parse_json<Json>(text));
  if (!document.is_object()) return bad_input("must be a JSON object");
  TokenizerConfig config;
  AUTOGLM_ASSIGN_OR_RETURN(config.tokenizer_class, string_member(document, "tokenizer_class", ""));
  for (auto [name, target] :
       {std::pair("add_bos_token", &config.add_bos_token), {"add_eos_token", &config.add_eos_token}}) {
    if (!find_member(document, name)) continue;
    AUTOGLM_ASSIGN_OR_RETURN(*target, bool_member(document, name));
  }
  if (const Json* decoder = find_member(document, "added_tokens_decoder")) {
    if (Status status = parse_added_tokens(*decoder, config.added_tokens); !status.ok()) {
      return status.with_context("added_tokens_decoder");
    }
  }
  return config;
}

}  // namespace

Result<TokenizerConfig> read_tokenizer_config(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "tokenizer_config.json";
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return TokenizerConfig{};
  AUTOGLM_ASSIGN_OR_RETURN(const std::string text, format::read_text_file(path));
  Result<TokenizerConfig> config = parse(text);
  if (!config.ok()) return config.status().with_context(format::display_path(path));
  return config;
}

}  // namespace autoglm::tokenizer
