#include "core/tokenizer/tiktoken.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <optional>
#include <string>

#include "core/format/display.h"
#include "core/tokenizer/bpe_tokenizer.h"
#include "core/tokenizer/byte_level.h"

namespace autoglm::tokenizer {
namespace {

// How GLM-4 splits text (tokenization_chatglm.py of its release).
constexpr std::string_view kGlm4Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// The special tokens of GLM-4, from the id after the last rank.
constexpr auto kGlm4SpecialTokens = std::to_array<std::string_view>(
    {"<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>",
     "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"});

std::optional<std::string> decode_base64(std::string_view text) {
  while (text.ends_with('=')) text.remove_suffix(1);
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    int value = 0;
    if (c >= 'A' && c <= 'Z') {
      value = c - 'A';
    } else if (c >= 'a' && c <= 'z') {
      value = c - 'a' + 26;
    } else if (c >= '0' && c <= '9') {
      value = c - '0' + 52;
    } else if (c == '+' || c == '/') {
      value = c == '+' ? 62 : 63;
    } else {
      return std::nullopt;
    }
    bits = bits << 6 | static_cast<uint32_t>(value);
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes += static_cast<char>(bits >> count & 0xFF);
    }
  }
  if (text.size() % 4 == 1) return std::nullopt;
  return bytes;
}

struct Line {
  std::string token;
  int32_t rank = 0;
};

std::optional<Line> parse_line(std::string_view line) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || space == 0) return std::nullopt;
  std::optional<std::string> token = decode_base64(line.substr(0, space));
  if (!token || token->empty()) return std::nullopt;
  const std::string_view digits = line.substr(space + 1);
  Line result{.token = std::move(*token)};
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), result.rank);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  if (result.rank < 0 || result.rank >= kMaxTokenId) return std::nullopt;
  return result;
}

// Takes the next line off `text`.
std::string_view next_line(std::string_view& text) {
  const size_t end = text.find('\n');
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return line;
}

Result<Vocabulary> parse_ranks(std::string_view text) {
  Vocabulary vocabulary;
  for (size_t number = 1; !text.empty(); ++number) {
    const std::string_view line = next_line(text);
    if (line.empty() || line == "\r") continue;
    const std::optional<Line> parsed = parse_line(line);
    if (!parsed) {
      return bad_input(
          fmt::format("line {}: {} is not a token in base64 and its rank", number, format::display(line, 40)));
    }
    Status status = vocabulary.add(to_byte_level(parsed->token), parsed->rank);
    if (!status.ok()) return status.with_context(fmt::format("line {}", number));
  }
  return vocabulary;
}

Result<AddedTokens> special_tokens(const Vocabulary& vocabulary, const TokenizerConfig& config) {
  std::vector<AddedToken> list = config.added_tokens;
  if (list.empty()) {
    int32_t id = vocabulary.id_end();
    for (const std::string_view content : kGlm4SpecialTokens) {
      list.push_back({.content = std::string(content), .id = id++, .special = true});
    }
  }
  AddedTokens tokens;
  for (AddedToken& token : list) {
    if (vocabulary.text(token.id)) {
      return bad_input(fmt::format("added_tokens_decoder of tokenizer_config.json gives {} the id {}, which is taken",
                                   format::display(token.content, 40), token.id));
    }
    std::string content = token.content;
    tokens.add(std::move(token), std::move(content));
  }
  tokens.finish();
  return tokens;
}

}  // namespace

bool looks_like_tiktoken(std::string_view text) {
  while (text.starts_with('\n') || text.starts_with('\r')) text.remove_prefix(1);
  return parse_line(next_line(text)).has_value();
}

Result<std::unique_ptr<Tokenizer>> parse_tiktoken(std::string_view text, const TokenizerConfig& config) {
  AUTOGLM_ASSIGN_OR_RETURN(Vocabulary vocabulary, parse_ranks(text));
  AUTOGLM_ASSIGN_OR_RETURN(AddedTokens added, special_tokens(vocabulary, config));
  AUTOGLM_ASSIGN_OR_RETURN(Bpe model, Bpe::from_ranks(std::move(vocabulary)));
  AUTOGLM_ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::byte_level(kGlm4Pattern));
  PostProcessor post_processor;
  const AddedToken* gmask = added.by_content("[gMASK]");
  const AddedToken* sop = added.by_content("<sop>");
  if (gmask && sop) post_processor = PostProcessor::with_affixes({gmask->id, sop->id}, {});
  return std::unique_ptr<Tokenizer>(std::make_unique<BpeTokenizer>(
      BpeTokenizerParts{"tiktoken", Normalizer(), std::move(pre_tokenizer), std::move(model), std::move(added),
                        std::move(post_processor), Decoder::byte_level()}));
}

}  // namespace autoglm::tokenizer
