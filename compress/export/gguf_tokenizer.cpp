#include "compress/export/gguf_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>
#include <system_error>

#include "compress/export/json_file.h"
#include "core/base/log.h"
#include "core/base/suggest.h"
#include "core/format/display.h"
#include "core/format/file.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/sentencepiece_model.h"
#include "core/tokenizer/tiktoken.h"
#include "core/tokenizer/tokenizer.h"

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

/// Whether text is taken as it is, or in Unicode's composed form, which llama.cpp leaves to the caller.
bool is_plain(const Json& normalizer) {
  return normalizer.is_null() || (normalizer.is_object() && normalizer.value("type", "") == "NFC");
}

/// llama.cpp's name for the rules of this file (its src/llama-vocab.cpp); "" for none.
std::string known_pre(const Json& tokenizer, format::Family family) {
  const std::vector<Json> steps = steps_of(tokenizer);
  if (!is_plain(tokenizer.value("normalizer", Json()))) return "";
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

/// What llama.cpp takes for tokenizer.ggml.pre; it refuses a file with another (its src/llama-vocab.cpp).
const std::vector<std::string>& pre_names() {
  static const std::vector<std::string> names = [] {
    std::istringstream words(
        "a.x-4.0 afmoe bailingmoe bailingmoe2 bloom chameleon chatglm-bpe codeshell cohere2moe command-r dbrx "
        "deepseek-coder deepseek-llm deepseek-r1-qwen deepseek-v3 default exaone exaone-moe exaone4 f2llmv2 "
        "falcon falcon-h1 falcon3 gemma4 gigachat glm4 gpt-2 gpt-4o gpt3-finnish granite-docling "
        "granite-embed-multi-311m granite-embed-multi-97m grok-2 hunyuan hunyuan-dense jais jais-2 jina-de "
        "jina-es jina-v1-en jina-v2-code jina-v2-de jina-v2-es jina-v5-nano joyai-llm kanana2 kimi-k2 kormo "
        "laguna lfm2 llada-moe llama-bpe llama-v3 llama3 llama4 megrez mellum mellum2 midm-2.0 minerva-7b "
        "minicpm5 minimax-m2 modern-bert mpt olmo phi-2 pixtral poro-chat qwen2 qwen35 refact roberta-bpe "
        "sarvam-moe seed-coder smaug-bpe smollm solar-open stablelm2 starcoder superbpe talkie tekken tiny_aya "
        "trillion viking whitespace youtu");
    return std::vector<std::string>(std::istream_iterator<std::string>(words), {});
  }();
  return names;
}

class TokenizerExport {
 public:
  TokenizerExport(const fs::path& folder, const format::ModelConfig& config) : folder_(folder), config_(config) {}

  Result<std::vector<GgufMetadata>> run(const std::string& pre) {
    const auto file = tokenizer::Tokenizer::find(folder_);
    if (!file) {
      return bad_input(format::display_path(folder_) + ": has neither a tokenizer.json nor a tokenizer.model");
    }
    AUTOGLM_RETURN_IF_ERROR(file->filename() == "tokenizer.json" ? put_byte_level(*file, pre)
                                                                 : put_sentencepiece(*file, pre));
    AUTOGLM_RETURN_IF_ERROR(put_chat_template());
    return std::move(out_);
  }

 private:
  Status put_byte_level(const fs::path& path, const std::string& pre) {
    AUTOGLM_ASSIGN_OR_RETURN(tokenizer_, read_json_object<Json>(path));
    const Json& model = tokenizer_["model"];
    const std::vector<Json> steps = steps_of(tokenizer_);
    const bool byte_level = std::any_of(steps.begin(), steps.end(), [](const Json& step) {
      return step.is_object() && step.value("type", "") == "ByteLevel";
    });
    if (!byte_level || !model.is_object() || model.value("type", "") != "BPE" || !model.contains("vocab") ||
        !model["vocab"].is_object()) {
      return bad_input(format::display_path(path) +
                       ": is no byte-level BPE, the only kind of tokenizer.json that is written into GGUF so far");
    }
    std::string name = known_pre(tokenizer_, config_.family);
    if (!pre.empty()) {
      if (std::find(pre_names().begin(), pre_names().end(), pre) == pre_names().end()) {
        const std::string meant = nearest(pre, pre_names());
        return invalid_argument(fmt::format("--pre {}: llama.cpp has no such pre-tokenizer{}", format::display(pre),
                                            meant.empty() ? "" : fmt::format("; did you mean '{}'?", meant)));
      }
      const bool is_alias = name == "llama-bpe" && (pre == "llama3" || pre == "llama-v3");
      if (!name.empty() && name != pre && !is_alias) {
        warn(fmt::format("--pre {}: the tokenizer's rules are those of {}, so that llama.cpp may split text otherwise",
                         pre, name));
      }
      name = pre;
    }
    if (name.empty()) {
      return bad_input(format::display_path(path) +
                       ": splits text as no known pre-tokenizer of llama.cpp does; --pre names the one to be used, "
                       "which then may give other tokens");
    }
    put("tokenizer.ggml.model", std::string("gpt2"));
    put("tokenizer.ggml.pre", std::move(name));
    AUTOGLM_RETURN_IF_ERROR(put_vocabulary(model["vocab"]).with_context(format::display_path(path)));
    AUTOGLM_RETURN_IF_ERROR(put_merges(model).with_context(format::display_path(path)));
    return put_special_tokens(id_of(first_token())).with_context(format::display_path(path));
  }

  /// Pieces, which llama.cpp joins by their scores as the library does.
  Status put_sentencepiece(const fs::path& path, const std::string& pre) {
    const auto refuse = [&](std::string_view what) {
      return bad_input(fmt::format("{}: {}, which is not written into GGUF", format::display_path(path), what));
    };
    if (!pre.empty())
      return invalid_argument("--pre names how a byte-level BPE splits text; this is a tokenizer.model");
    AUTOGLM_ASSIGN_OR_RETURN(const std::string bytes, format::read_text_file(path, 1 << 29));
    if (tokenizer::looks_like_tiktoken(bytes)) return refuse("is in tiktoken's form");
    AUTOGLM_ASSIGN_OR_RETURN(const auto whole, tokenizer::Tokenizer::load(folder_));
    AUTOGLM_ASSIGN_OR_RETURN(const auto model, tokenizer::parse_sentencepiece_model(bytes));
    if (!model.is_bpe) return refuse("is a unigram model");
    const auto bytes_held = std::count_if(model.pieces.begin(), model.pieces.end(), [](const auto& piece) {
      return piece.type == tokenizer::SentencePieceModel::Type::kByte;
    });
    if (bytes_held != 256) return refuse("has no pieces for single bytes, which llama.cpp wants");
    if (model.remove_extra_whitespaces) {
      warn(format::display_path(path) + ": takes several spaces for one, which llama.cpp does not");
    }
    if (model.has_charsmap) {
      warn(format::display_path(path) +
           ": normalizes text by a table, which llama.cpp leaves out: rare forms of "
           "characters may give other tokens");
    }
    start_vocabulary();
    std::vector<float> scores(tokens_.size());
    std::optional<uint32_t> unknown;
    const auto pieces = static_cast<int32_t>(model.pieces.size());
    for (int32_t id = 0; id < std::max(pieces, whole->vocab_size()); ++id) {
      std::string text = whole->id_to_token(id);
      if (text.empty()) continue;
      // The numbers of types are sentencepiece's own.
      const int32_t type = id < pieces             ? static_cast<int32_t>(model.pieces[static_cast<size_t>(id)].type)
                           : whole->is_special(id) ? kControl
                                                   : kUserDefined;
      AUTOGLM_RETURN_IF_ERROR(put_token(std::move(text), id, type).with_context(format::display_path(path)));
      if (id >= pieces) continue;
      scores[static_cast<size_t>(id)] = model.pieces[static_cast<size_t>(id)].score;
      if (type == static_cast<int32_t>(tokenizer::SentencePieceModel::Type::kUnknown)) unknown = id;
    }
    put("tokenizer.ggml.model", std::string("llama"));
    put("tokenizer.ggml.pre", std::string("default"));
    AUTOGLM_RETURN_IF_ERROR(put_tokens().with_context(format::display_path(path)));
    put("tokenizer.ggml.scores", std::move(scores));
    if (unknown) put("tokenizer.ggml.unknown_token_id", *unknown);
    put("tokenizer.ggml.add_space_prefix", model.add_dummy_prefix);
    // What stands before and behind every text: one token each has a place; ChatGLM's two are its template's business.
    const auto plain = whole->encode("a"), framed = whole->encode("a", {.add_special_tokens = true});
    const auto text = std::search(framed.begin(), framed.end(), plain.begin(), plain.end());
    const auto before = text - framed.begin(), behind = std::ssize(framed) - before - std::ssize(plain);
    put("tokenizer.ggml.add_eos_token", behind == 1);
    const auto first = before == 1 ? std::optional(static_cast<uint32_t>(framed[0])) : std::nullopt;
    return put_special_tokens(first).with_context(format::display_path(path));
  }

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

  /// A word for every row of the embedding, until one of the tokenizer's stands there.
  void start_vocabulary() {
    const auto size = static_cast<size_t>(config_.vocab_size);
    tokens_.resize(size);
    types_.assign(size, kUnused);
    for (size_t i = 0; i < size; ++i) tokens_[i] = fmt::format("[PAD{}]", i);
  }

  Status put_vocabulary(const Json& vocabulary) {
    start_vocabulary();
    for (const auto& [text, id] : vocabulary.items()) AUTOGLM_RETURN_IF_ERROR(put_token(text, id, kNormal));
    for (const Json& added : tokenizer_["added_tokens"]) {
      if (!added.is_object() || !added.value("content", Json()).is_string()) continue;
      AUTOGLM_RETURN_IF_ERROR(put_token(added["content"].get<std::string>(), added.value("id", Json()),
                                        added.value("special", false) ? kControl : kUserDefined));
    }
    return put_tokens();
  }

  Status put_tokens() {
    std::set<std::string_view> known;
    for (const std::string& token : tokens_) {
      if (known.insert(token).second) continue;
      return bad_input(fmt::format("token {} stands for two ids, which llama.cpp refuses", format::display(token)));
    }
    put("tokenizer.ggml.tokens", tokens_);
    put("tokenizer.ggml.token_type", types_);
    return ok_status();
  }

  Status put_merges(const Json& model) {
    std::vector<std::string> merges;
    if (!model.contains("merges") || !model["merges"].is_array()) return bad_input("model has no merges");
    for (const Json& merge : model["merges"]) {
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

  /// The one token that post-processing puts before text; "" for none, or for more than llama.cpp can put there.
  std::string first_token() const {
    Json post = tokenizer_.value("post_processor", Json());
    if (post.is_object() && post.value("type", "") == "Sequence") {
      for (const Json& step : post.value("processors", Json::array())) {
        if (step.is_object() && step.value("type", "") == "TemplateProcessing") post = Json(step);
      }
    }
    if (!post.is_object() || post.value("type", "") != "TemplateProcessing") return "";
    const Json single = post.value("single", Json::array());
    const auto is_token = [&](size_t i) {
      return i < single.size() && single[i].is_object() && single[i].contains("SpecialToken");
    };
    return single.is_array() && is_token(0) && !is_token(1) ? single[0]["SpecialToken"].value("id", "") : "";
  }

  // Whatever ends an answer. The first is the end of text; of the others, llama.cpp has names for the end of a turn and
  // of a message, and knows <|endoftext|> by its text.
  Status put_special_tokens(std::optional<uint32_t> first) {
    if (config_.eos_token_ids.empty()) {
      return bad_input("config.json names no eos_token_id; llama.cpp would take another token for the end of text");
    }
    static const std::vector<std::string> names = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                                   "tokenizer.ggml.eom_token_id"};
    size_t used = 0;
    for (const int64_t id : config_.eos_token_ids) {
      if (id < 0 || id >= config_.vocab_size) {
        return bad_input(
            fmt::format("config.json: eos_token_id {} is outside the vocabulary of {}", id, config_.vocab_size));
      }
      if (used > 0 && tokens_[static_cast<size_t>(id)] == "<|endoftext|>") continue;
      if (used == names.size()) {
        warn(fmt::format("gguf has no name for a fourth end of an answer: {} is left out",
                         tokens_[static_cast<size_t>(id)]));
        continue;
      }
      put(names[used++], static_cast<uint32_t>(id));
    }
    if (config_.pad_token_id >= 0) put("tokenizer.ggml.padding_token_id", static_cast<uint32_t>(config_.pad_token_id));
    if (first) put("tokenizer.ggml.bos_token_id", *first);
    put("tokenizer.ggml.add_bos_token", first.has_value());
    return ok_status();
  }

  // A model without a template gets none.
  Status put_chat_template() {
    AUTOGLM_ASSIGN_OR_RETURN(auto sources, tokenizer::ChatTemplate::read_sources(folder_));
    if (!sources) return ok_status();
    put("tokenizer.chat_template", std::move(sources->usual));
    if (sources->tool_use) put("tokenizer.chat_template.tool_use", std::move(*sources->tool_use));
    return ok_status();
  }

  const fs::path& folder_;
  const format::ModelConfig& config_;
  Json tokenizer_;
  std::vector<std::string> tokens_;
  std::vector<int32_t> types_;
  std::vector<GgufMetadata> out_;
};

/// How a pre-tokenizer of llama.cpp splits, in tokenizer.json's words.
struct PreTokenizer {
  std::string_view name;
  std::string_view regex;  ///< "": `digits`, or ByteLevel's own rules
  bool digits = false;
  bool ignores_merges = false;
  bool adds_bos = false;  ///< where the file does not say (src/llama-vocab.cpp)
};
constexpr PreTokenizer kPreTokenizers[] = {{"glm4", kThreeDigits, false, true},
                                           {"llama-bpe", kThreeDigits, false, true, true},
                                           {"llama3", kThreeDigits, false, true, true},
                                           {"llama-v3", kThreeDigits, false, true, true},
                                           {"chatglm-bpe", kThreeDigits},
                                           {"qwen2", kOneDigit},
                                           {"gpt-2", ""},
                                           {"smollm", "", true}};

class TokenizerImport {
 public:
  TokenizerImport(const GgufReader& reader, int64_t vocab_size) : reader_(reader), vocab_size_(vocab_size) {}

  Result<std::vector<std::pair<std::string, std::string>>> run() {
    AUTOGLM_ASSIGN_OR_RETURN(const std::string kind, reader_.needed<std::string>("tokenizer.ggml.model"));
    if (kind != "gpt2") return refuse("a vocabulary of the kind " + format::display(kind));
    AUTOGLM_ASSIGN_OR_RETURN(const std::string pre, reader_.needed<std::string>("tokenizer.ggml.pre"));
    const auto rules = std::find_if(std::begin(kPreTokenizers), std::end(kPreTokenizers),
                                    [&](const PreTokenizer& one) { return one.name == pre; });
    if (rules == std::end(kPreTokenizers)) return refuse("the pre-tokenizer " + format::display(pre));
    AUTOGLM_ASSIGN_OR_RETURN(tokens_, reader_.needed<std::vector<std::string>>("tokenizer.ggml.tokens"));
    AUTOGLM_ASSIGN_OR_RETURN(types_, reader_.needed<std::vector<int64_t>>("tokenizer.ggml.token_type"));
    AUTOGLM_ASSIGN_OR_RETURN(const auto merges, reader_.needed<std::vector<std::string>>("tokenizer.ggml.merges"));
    if (std::ssize(tokens_) > vocab_size_) {
      return refuse(fmt::format("a vocabulary of {} over an embedding of {} rows", tokens_.size(), vocab_size_));
    }
    if (types_.size() != tokens_.size())
      return refuse(fmt::format("{} tokens with {} types", tokens_.size(), types_.size()));
    AUTOGLM_ASSIGN_OR_RETURN(ids_, tokenizer_ids(reader_));
    AUTOGLM_ASSIGN_OR_RETURN(const auto adds_bos, reader_.get<bool>("tokenizer.ggml.add_bos_token"));

    std::vector<std::pair<std::string, std::string>> files;
    AUTOGLM_ASSIGN_OR_RETURN(const Ordered tokenizer,
                             tokenizer_json(*rules, merges, adds_bos.value_or(rules->adds_bos)));
    files.emplace_back("tokenizer.json", tokenizer.dump(1) + "\n");
    files.emplace_back("tokenizer_config.json", config_json().dump(2) + "\n");
    AUTOGLM_ASSIGN_OR_RETURN(const auto usual, reader_.get<std::string>("tokenizer.chat_template"));
    if (usual) files.emplace_back("chat_template.jinja", *usual);
    AUTOGLM_ASSIGN_OR_RETURN(const auto tools, reader_.get<std::string>("tokenizer.chat_template.tool_use"));
    if (tools) files.emplace_back("additional_chat_templates/tool_use.jinja", *tools);
    return files;
  }

 private:
  using Ordered = nlohmann::ordered_json;

  Status refuse(std::string_view what) const { return reader_.refuse(what); }

  std::string text_of(int64_t id) const {
    return id >= 0 && id < std::ssize(tokens_) ? tokens_[static_cast<size_t>(id)] : std::string();
  }

  Result<Ordered> tokenizer_json(const PreTokenizer& rules, const std::vector<std::string>& merges,
                                 bool adds_bos) const {
    Ordered added = Ordered::array(), vocabulary = Ordered::object(), pairs = Ordered::array();
    Ordered::object_t& members = vocabulary.get_ref<Ordered::object_t&>();
    members.reserve(tokens_.size());
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (!format::is_utf8(tokens_[i])) return refuse(fmt::format("token {}, which is no UTF-8,", i));
      if (types_[i] != kNormal && types_[i] != kControl && types_[i] != kUserDefined && types_[i] != kUnused) {
        return refuse(fmt::format("token {} of type {}", i, types_[i]));
      }
      if (types_[i] == kNormal) members.emplace_back(tokens_[i], i);
      if (types_[i] != kControl && types_[i] != kUserDefined) continue;
      added.push_back({{"id", i},
                       {"content", tokens_[i]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", types_[i] == kControl}});
    }
    for (const std::string& merge : merges) {
      const size_t space = merge.find(' ', 1);
      if (space == std::string::npos || !format::is_utf8(merge)) return refuse("the merge " + format::display(merge));
      pairs.push_back({merge.substr(0, space), merge.substr(space + 1)});
    }
    const auto byte_level = [](bool use_regex) {
      return Ordered{
          {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
    };
    Ordered steps = Ordered::array();
    if (!rules.regex.empty()) {
      steps.push_back(
          {{"type", "Split"}, {"pattern", {{"Regex", rules.regex}}}, {"behavior", "Isolated"}, {"invert", false}});
    }
    if (rules.digits) steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
    steps.push_back(byte_level(rules.regex.empty()));
    Ordered first = Ordered(nullptr);
    if (adds_bos && ids_.bos) {
      const std::string bos = text_of(*ids_.bos);
      first = {{"type", "TemplateProcessing"},
               {"single",
                {{{"SpecialToken", {{"id", bos}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
               {"pair",
                {{{"SpecialToken", {{"id", bos}, {"type_id", 0}}}},
                 {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
                 {{"Sequence", {{"id", "B"}, {"type_id", 1}}}}}},
               {"special_tokens", {{bos, {{"id", bos}, {"ids", {*ids_.bos}}, {"tokens", {bos}}}}}}};
    }
    return Ordered{{"version", "1.0"},
                   {"truncation", nullptr},
                   {"padding", nullptr},
                   {"added_tokens", std::move(added)},
                   {"normalizer", nullptr},
                   {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}}},
                   {"post_processor", std::move(first)},
                   {"decoder", byte_level(true)},
                   {"model",
                    {{"type", "BPE"},
                     {"dropout", nullptr},
                     {"unk_token", nullptr},
                     {"continuing_subword_prefix", nullptr},
                     {"end_of_word_suffix", nullptr},
                     {"fuse_unk", false},
                     {"byte_fallback", false},
                     {"ignore_merges", rules.ignores_merges},
                     {"vocab", std::move(vocabulary)},
                     {"merges", std::move(pairs)}}}};
  }

  nlohmann::ordered_json config_json() const {
    Ordered json = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
    if (!ids_.eos.empty()) json["eos_token"] = text_of(ids_.eos.front());
    if (ids_.pad) json["pad_token"] = text_of(*ids_.pad);
    if (ids_.bos) json["bos_token"] = text_of(*ids_.bos);
    return json;
  }

  const GgufReader& reader_;
  int64_t vocab_size_;
  std::vector<std::string> tokens_;
  std::vector<int64_t> types_;
  TokenizerIds ids_;
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

Result<TokenizerIds> tokenizer_ids(const GgufReader& reader) {
  TokenizerIds ids;
  AUTOGLM_ASSIGN_OR_RETURN(const auto tokens, reader.get<std::vector<std::string>>("tokenizer.ggml.tokens"));
  const int64_t count = tokens ? std::ssize(*tokens) : 0;
  const auto add = [&](const char* key, const auto& put) -> Status {
    AUTOGLM_ASSIGN_OR_RETURN(const auto id, reader.get<int64_t>(key));
    if (!id) return ok_status();
    if (*id < 0 || *id >= count) {
      return bad_input(fmt::format("{}: metadata {} is {}, outside the vocabulary of {}",
                                   format::display_path(reader.path()), key, *id, count));
    }
    put(*id);
    return ok_status();
  };
  const auto ends = [&](int64_t id) {
    if (std::find(ids.eos.begin(), ids.eos.end(), id) == ids.eos.end()) ids.eos.push_back(id);
  };
  for (const char* key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    AUTOGLM_RETURN_IF_ERROR(add(key, ends));
  }
  if (tokens) {  // llama.cpp takes it for an end by its text
    const auto found = std::find(tokens->begin(), tokens->end(), "<|endoftext|>");
    if (found != tokens->end()) ends(found - tokens->begin());
  }
  AUTOGLM_RETURN_IF_ERROR(add("tokenizer.ggml.padding_token_id", [&](int64_t id) { ids.pad = id; }));
  AUTOGLM_RETURN_IF_ERROR(add("tokenizer.ggml.bos_token_id", [&](int64_t id) { ids.bos = id; }));
  return ids;
}

Result<std::vector<std::pair<std::string, std::string>>> tokenizer_files(const GgufReader& reader, int64_t vocab_size) {
  return TokenizerImport(reader, vocab_size).run();
}

}  // namespace autoglm::exports
