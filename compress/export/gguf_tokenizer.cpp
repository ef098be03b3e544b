#include "compress/export/gguf_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "core/format/display.h"
#include "core/format/file.h"
#include "core/format/json.h"

namespace autoglm::exports {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

/// GGUF's numbers of token types.
enum TokenType : int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

// How tokenizer.json words the splitting that llama.cpp's pre-tokenizers do by their own code.
constexpr std::string_view kThreeDigits =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kOneDigit =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// The steps of the pre-tokenizer, a sequence flattened.
std::vector<Json> steps_of(const Json& tokenizer) {
  const Json pre = tokenizer.value("pre_tokenizer", Json());
  if (pre.is_object() && pre.value("type", "") == "Sequence") {
    const Json list = pre.value("pretokenizers", Json::array());
    return {list.begin(), list.end()};
  }
  return pre.is_object() ? std::vector<Json>{pre} : std::vector<Json>();
}

bool is_byte_level(const Json& step, bool use_regex) {
  return step.value("type", "") == "ByteLevel" && !step.value("add_prefix_space", true) &&
         step.value("use_regex", true) == use_regex;
}

std::string split_regex(const Json& step) {
  if (step.value("type", "") != "Split" || step.value("behavior", "") != "Isolated" || step.value("invert", false)) {
    return "";
  }
  const Json pattern = step.value("pattern", Json::object());
  return pattern.is_object() ? pattern.value("Regex", "") : "";
}

/// llama.cpp's name for the rules of this file (its src/llama-vocab.cpp); "" for none.
std::string known_pre(const Json& tokenizer, format::Family family) {
  const std::vector<Json> steps = steps_of(tokenizer);
  const bool ignores_merges = tokenizer["model"].value("ignore_merges", false);
  if (steps.size() == 1 && is_byte_level(steps[0], true) && !ignores_merges) return "gpt-2";
  if (steps.size() != 2) return "";
  if (steps[0].value("type", "") == "Digits" && steps[0].value("individual_digits", false)) {
    return is_byte_level(steps[1], true) && !ignores_merges ? "smollm" : "";
  }
  if (!is_byte_level(steps[1], false)) return "";
  const std::string regex = split_regex(steps[0]);
  if (regex == kOneDigit) return ignores_merges ? "" : "qwen2";
  if (regex != kThreeDigits) return "";
  if (!ignores_merges) return "chatglm-bpe";
  return family == format::Family::kLlama ? "llama-bpe" : "glm4";
}

Result<Json> read_json(const fs::path& path) {
  AUTOGLM_ASSIGN_OR_RETURN(const std::string text, format::read_text_file(path));
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return bad_input(format::display_path(path) + ": is no JSON object");
  return json;
}

class TokenizerExport {
 public:
  TokenizerExport(const fs::path& folder, const format::ModelConfig& config) : folder_(folder), config_(config) {}

  Result<std::vector<GgufMetadata>> run(const std::string& pre) {
    const fs::path path = folder_ / "tokenizer.json";
    std::error_code error;
    if (!fs::exists(path, error)) {
      return bad_input(format::display_path(folder_) +
                       ": has no tokenizer.json, the only kind that is written into GGUF so far");
    }
    AUTOGLM_ASSIGN_OR_RETURN(tokenizer_, read_json(path));
    const Json model = tokenizer_.value("model", Json());
    if (!model.is_object() || model.value("type", "") != "BPE" || !model.value("vocab", Json()).is_object()) {
      return bad_input(format::display_path(path) +
                       ": is no byte-level BPE, the only kind that is written into GGUF so far");
    }
    std::string name = pre.empty() ? known_pre(tokenizer_, config_.family) : pre;
    if (name.empty()) {
      return bad_input(format::display_path(path) +
                       ": splits text as no known pre-tokenizer of llama.cpp does; --pre names the one to be used, "
                       "which then may give other tokens");
    }
    put("tokenizer.ggml.model", std::string("gpt2"));
    put("tokenizer.ggml.pre", std::move(name));
    AUTOGLM_RETURN_IF_ERROR(put_vocabulary(model["vocab"]).with_context(format::display_path(path)));
    AUTOGLM_RETURN_IF_ERROR(put_merges(model).with_context(format::display_path(path)));
    put_special_tokens();
    AUTOGLM_RETURN_IF_ERROR(put_chat_template());
    return std::move(out_);
  }

 private:
  void put(std::string key, GgufValue value) { out_.push_back({std::move(key), std::move(value)}); }

  Status put_token(std::string text, const Json& id, int32_t type) {
    if (!id.is_number_integer() || id < 0 || id >= config_.vocab_size) {
      return bad_input(fmt::format("token {} has the id {}, outside the vocabulary of {} in config.json",
                                   format::display(text), id.dump(), config_.vocab_size));
    }
    const auto at = id.get<size_t>();
    tokens_[at] = std::move(text);
    types_[at] = type;
    return ok_status();
  }

  Status put_vocabulary(const Json& vocabulary) {
    const auto size = static_cast<size_t>(config_.vocab_size);
    tokens_.resize(size);
    types_.assign(size, kUnused);
    for (size_t i = 0; i < size; ++i) tokens_[i] = fmt::format("[PAD{}]", i);
    for (const auto& [text, id] : vocabulary.items()) AUTOGLM_RETURN_IF_ERROR(put_token(text, id, kNormal));
    for (const Json& added : tokenizer_.value("added_tokens", Json::array())) {
      if (!added.is_object() || !added.value("content", Json()).is_string()) continue;
      AUTOGLM_RETURN_IF_ERROR(put_token(added["content"].get<std::string>(), added.value("id", Json()),
                                        added.value("special", false) ? kControl : kUserDefined));
    }
    put("tokenizer.ggml.tokens", tokens_);
    put("tokenizer.ggml.token_type", types_);
    return ok_status();
  }

  Status put_merges(const Json& model) {
    std::vector<std::string> merges;
    for (const Json& merge : model.value("merges", Json::array())) {
      const bool pair = merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
      if (!pair && !merge.is_string()) return bad_input(fmt::format("merges[{}] is no pair of tokens", merges.size()));
      merges.push_back(pair ? merge[0].get<std::string>() + " " + merge[1].get<std::string>()
                            : merge.get<std::string>());
    }
    put("tokenizer.ggml.merges", std::move(merges));
    return ok_status();
  }

  std::optional<uint32_t> id_of(const std::string& text) const {
    const auto found = std::find(tokens_.begin(), tokens_.end(), text);
    if (text.empty() || found == tokens_.end()) return std::nullopt;
    return static_cast<uint32_t>(found - tokens_.begin());
  }

  /// The token that post-processing puts before text; "" for none.
  std::string first_token() const {
    Json post = tokenizer_.value("post_processor", Json());
    if (post.is_object() && post.value("type", "") == "Sequence") {
      for (const Json& step : post.value("processors", Json::array())) {
        if (step.is_object() && step.value("type", "") == "TemplateProcessing") post = step;
      }
    }
    if (!post.is_object() || post.value("type", "") != "TemplateProcessing") return "";
    const Json single = post.value("single", Json::array());
    if (!single.is_array() || single.empty() || !single[0].is_object() || !single[0].contains("SpecialToken"))
      return "";
    return single[0]["SpecialToken"].value("id", "");
  }

  void put_special_tokens() {
    // Whatever ends an answer: llama.cpp has three names for it.
    const char* ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    for (size_t i = 0; i < std::min<size_t>(3, config_.eos_token_ids.size()); ++i) {
      put(ends[i], static_cast<uint32_t>(config_.eos_token_ids[i]));
    }
    if (config_.pad_token_id >= 0) put("tokenizer.ggml.padding_token_id", static_cast<uint32_t>(config_.pad_token_id));
    const auto first = id_of(first_token());
    if (first) put("tokenizer.ggml.bos_token_id", *first);
    put("tokenizer.ggml.add_bos_token", first.has_value());
  }

  Status put_chat_template() {
    std::error_code error;
    if (const fs::path file = folder_ / "chat_template.jinja"; fs::exists(file, error)) {
      AUTOGLM_ASSIGN_OR_RETURN(std::string text, format::read_text_file(file));
      put("tokenizer.chat_template", std::move(text));
    } else if (const fs::path config = folder_ / "tokenizer_config.json"; fs::exists(config, error)) {
      AUTOGLM_ASSIGN_OR_RETURN(const Json json, read_json(config));
      if (const Json text = json.value("chat_template", Json()); text.is_string()) {
        put("tokenizer.chat_template", text.get<std::string>());
      }
    }
    return ok_status();
  }

  const fs::path& folder_;
  const format::ModelConfig& config_;
  Json tokenizer_;
  std::vector<std::string> tokens_;
  std::vector<int32_t> types_;
  std::vector<GgufMetadata> out_;
};

}  // namespace

Result<std::vector<GgufMetadata>> tokenizer_metadata(const fs::path& folder, const format::ModelConfig& config,
                                                     const std::string& pre) {
  try {
    return TokenizerExport(folder, config).run(pre);
  } catch (const Json::exception&) {  // a member of another type than its name promises
    return bad_input(format::display_path(folder / "tokenizer.json") + ": a member has a type that it cannot have");
  }
}

}  // namespace autoglm::exports
