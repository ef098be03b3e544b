#include <filesystem>
#include <new>

#include "core/format/display.h"
#include "core/format/file.h"
#include "core/tokenizer/sentencepiece.h"
#include "core/tokenizer/tiktoken.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/tokenizer_config.h"
#include "core/tokenizer/tokenizer_json.h"

namespace autoglm::tokenizer {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxFileBytes = 1 << 29;
constexpr const char* kJsonFile = "tokenizer.json";
constexpr const char* kModelFile = "tokenizer.model";

// ChatGLM2 and ChatGLM3 have the same tokenizer class; only ChatGLM3 has role tokens. Its code and its config name
// them.
SentencePieceFamily sentencepiece_family(const fs::path& folder, const TokenizerConfig& config) {
  if (config.tokenizer_class != "ChatGLMTokenizer") return SentencePieceFamily::kPlain;
  const Result<std::string> code = format::read_text_file(folder / "tokenization_chatglm.py");
  if (code.ok() && code->find("<|observation|>") == std::string::npos && config.added_tokens.empty()) {
    return SentencePieceFamily::kChatGlm2;
  }
  return SentencePieceFamily::kChatGlm3;
}

Result<std::unique_ptr<Tokenizer>> load_file(const fs::path& folder) {
  const std::optional<fs::path> file = Tokenizer::find(folder);
  if (!file) {
    return bad_input(format::display_path(folder) +
                     ": no tokenizer: neither tokenizer.json nor tokenizer.model is there");
  }
  const bool is_json = file->filename() == kJsonFile;
  TokenizerConfig config;
  if (!is_json) {
    AUTOGLM_ASSIGN_OR_RETURN(config, read_tokenizer_config(folder));
  }
  AUTOGLM_ASSIGN_OR_RETURN(const std::string bytes, format::read_text_file(*file, kMaxFileBytes));
  const auto parse = [&](const std::string& bytes) {
    if (is_json) return parse_tokenizer_json(bytes);
    if (looks_like_tiktoken(bytes)) return parse_tiktoken(bytes, config);
    return parse_sentencepiece(bytes, config, sentencepiece_family(folder, config));
  };
  Result<std::unique_ptr<Tokenizer>> tokenizer = parse(bytes);
  if (!tokenizer.ok()) return tokenizer.status().with_context(format::display_path(*file));
  return tokenizer;
}

}  // namespace

std::optional<fs::path> Tokenizer::find(const fs::path& folder) {
  for (const char* name : {kJsonFile, kModelFile}) {
    std::error_code error;
    if (fs::exists(folder / name, error)) return folder / name;
  }
  return std::nullopt;
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::load(const fs::path& folder) {
  try {
    return load_file(folder);
  } catch (const std::bad_alloc&) {
    return resource_exhausted(format::display_path(folder) + ": not enough memory for the tokenizer");
  } catch (const std::exception& e) {
    return internal_error(format::display_path(folder) + ": reading the tokenizer failed: " + e.what());
  }
}

}  // namespace autoglm::tokenizer
