#include "core/tokenizer/tokenizer_json.h"

#include <fmt/format.h>

#include <unordered_map>

#include "core/base/log.h"
#include "core/format/display.h"
#include "core/tokenizer/bpe_tokenizer.h"
#include "core/tokenizer/json_members.h"

namespace autoglm::tokenizer {
namespace {

constexpr size_t kMaxDepth = 100;
constexpr size_t kMaxAddedTokenBytes = 4096;  // the time of a search grows with it

// Reads the document in one pass. model.vocab and model.merges, which may have half a million entries, go straight into
// their tables; everything else becomes a small Json.
class DocumentReader final : public nlohmann::json_sax<Json> {
 public:
  Json document;
  Vocabulary vocabulary;
  MergeList merges;
  bool has_vocabulary = false;
  bool has_merges = false;
  Status status;

  bool null() override { return value(nullptr); }
  bool boolean(bool v) override { return value(v); }
  bool number_integer(number_integer_t v) override { return value(v); }
  bool number_unsigned(number_unsigned_t v) override { return value(v); }
  bool number_float(number_float_t v, const string_t&) override { return value(v); }
  bool string(string_t& v) override { return where_ == Where::kMerges ? merge_text(v) : value(std::move(v)); }
  bool binary(binary_t&) override { return false; }

  bool start_object(std::size_t) override {
    if (where_ == Where::kDocument && is_model_member("vocab")) {
      where_ = Where::kVocabulary;
      has_vocabulary = true;
      return true;
    }
    if (where_ != Where::kDocument) return fail(fmt::format("{}: has an object where none belongs", place()));
    return open(Json::object());
  }
  bool end_object() override {
    if (where_ == Where::kVocabulary) {
      where_ = Where::kDocument;
      return true;
    }
    return close();
  }
  bool start_array(std::size_t) override {
    if (where_ == Where::kDocument && is_model_member("merges")) {
      where_ = Where::kMerges;
      has_merges = true;
      return true;
    }
    if (where_ == Where::kMerges && !in_pair_) {
      in_pair_ = true;
      pair_.clear();
      return true;
    }
    if (where_ != Where::kDocument) return fail(fmt::format("{}: has an array where none belongs", place()));
    return open(Json::array());
  }
  bool end_array() override {
    if (where_ == Where::kMerges && in_pair_) {
      in_pair_ = false;
      if (pair_.size() != 2) return fail(fmt::format("{}: must be a pair", place()));
      merges.add(pair_[0], pair_[1]);
      return true;
    }
    if (where_ == Where::kMerges) {
      where_ = Where::kDocument;
      return true;
    }
    return close();
  }
  bool key(string_t& name) override {
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return fail(fmt::format("not valid JSON at byte {}", position));
  }

 private:
  enum class Where { kDocument, kVocabulary, kMerges };

  bool fail(std::string message) {
    status = bad_input(std::move(message));
    return false;
  }
  std::string place() const {
    return where_ == Where::kVocabulary ? "model.vocab" : fmt::format("model.merges[{}]", merges.size());
  }
  bool is_model_member(std::string_view name) const {
    return open_.size() == 2 && key_ == name && open_[1] == model_ && model_ != nullptr;
  }

  Json* place_value(Json v) {
    if (open_.empty()) {
      document = std::move(v);
      return &document;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(v));
      return &parent.back();
    }
    return &(parent[key_] = std::move(v));
  }
  bool value(Json v) {
    if (where_ == Where::kVocabulary) {
      Result<int32_t> id = token_id(v);
      Status added = id.ok() ? vocabulary.add(key_, *id) : id.status();
      if (added.ok()) return true;
      if (!id.ok()) added = added.with_context(format::display(key_, 40));
      status = added.with_context("model.vocab");
      return false;
    }
    if (where_ == Where::kMerges) return fail(fmt::format("{}: must be text or a pair of texts", place()));
    place_value(std::move(v));
    return true;
  }
  bool open(Json v) {
    if (open_.size() == kMaxDepth) return fail(fmt::format("nested deeper than {} levels", kMaxDepth));
    const bool is_model = open_.size() == 1 && open_[0]->is_object() && key_ == "model" && v.is_object();
    open_.push_back(place_value(std::move(v)));
    if (is_model) model_ = open_.back();
    return true;
  }
  bool close() {
    if (open_.back() == model_) model_ = nullptr;
    open_.pop_back();
    return true;
  }

  bool merge_text(string_t& text) {
    if (in_pair_) {
      pair_.push_back(std::move(text));
      return true;
    }
    if (text.starts_with("#version")) return true;
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      return fail(fmt::format("{}: {} must be two tokens with one space between", place(), format::display(text, 40)));
    }
    merges.add(std::string_view(text).substr(0, space), std::string_view(text).substr(space + 1));
    return true;
  }

  Where where_ = Where::kDocument;
  std::vector<Json*> open_;  // the arrays and objects around the next value
  Json* model_ = nullptr;    // the object "model" while it is open
  std::string key_;
  bool in_pair_ = false;
  std::vector<std::string> pair_;
};

Result<BpeOptions> parse_bpe_options(const Json& model, bool byte_level) {
  BpeOptions options;
  options.byte_level = byte_level;
  if (find_member(model, "unk_token")) {
    AUTOGLM_ASSIGN_OR_RETURN(options.unk_token, string_member(model, "unk_token"));
  }
  AUTOGLM_ASSIGN_OR_RETURN(options.continuing_subword_prefix, string_member(model, "continuing_subword_prefix", ""));
  AUTOGLM_ASSIGN_OR_RETURN(options.end_of_word_suffix, string_member(model, "end_of_word_suffix", ""));
  AUTOGLM_ASSIGN_OR_RETURN(options.fuse_unk, bool_member(model, "fuse_unk", false));
  AUTOGLM_ASSIGN_OR_RETURN(options.byte_fallback, bool_member(model, "byte_fallback", false));
  AUTOGLM_ASSIGN_OR_RETURN(options.ignore_merges, bool_member(model, "ignore_merges", false));
  return options;
}

Result<Bpe> parse_model(DocumentReader& reader, bool byte_level) {
  const Json* model = find_member(reader.document, "model");
  if (!model) return bad_input("'model' is missing: not a tokenizer.json");
  if (!model->is_object()) return bad_input("'model' must be an object");
  AUTOGLM_ASSIGN_OR_RETURN(const std::string type, string_member(*model, "type", reader.has_merges ? "BPE" : ""));
  if (type != "BPE") {
    return bad_input(fmt::format("the model is of type {}; known: BPE", format::display(type, 40)));
  }
  if (!reader.has_vocabulary) return bad_input("'vocab' is missing, or no object");
  if (!reader.has_merges) return bad_input("'merges' is missing, or no array");
  AUTOGLM_ASSIGN_OR_RETURN(BpeOptions options, parse_bpe_options(*model, byte_level));
  return Bpe::create(std::move(reader.vocabulary), reader.merges, std::move(options));
}

Result<AddedToken> parse_added_token(const Json& spec) {
  AddedToken token;
  AUTOGLM_ASSIGN_OR_RETURN(token.content, string_member(spec, "content"));
  if (token.content.size() > kMaxAddedTokenBytes) return bad_input("'content' is longer than 4096 bytes");
  const Json* id = find_member(spec, "id");
  if (!id) return bad_input("'id' is missing");
  AUTOGLM_ASSIGN_OR_RETURN(token.id, token_id(*id));
  AUTOGLM_ASSIGN_OR_RETURN(token.single_word, bool_member(spec, "single_word", false));
  AUTOGLM_ASSIGN_OR_RETURN(token.lstrip, bool_member(spec, "lstrip", false));
  AUTOGLM_ASSIGN_OR_RETURN(token.rstrip, bool_member(spec, "rstrip", false));
  AUTOGLM_ASSIGN_OR_RETURN(token.special, bool_member(spec, "special", false));
  AUTOGLM_ASSIGN_OR_RETURN(token.normalized, bool_member(spec, "normalized", !token.special));
  return token;
}

// Gives added tokens their ids as the reference does: that of the vocabulary where it has the token, else the next free
// one, whatever the file says. Files written by the reference agree with that. "Next free" counts the vocabulary, so
// where its ids have gaps a token of it may have that id too; such an id decodes to the added token.
Result<AddedTokens> parse_added_tokens(const Json& document, const Vocabulary& vocabulary,
                                       const Normalizer& normalizer) {
  AddedTokens tokens;
  if (!find_member(document, "added_tokens")) return tokens;
  AUTOGLM_ASSIGN_OR_RETURN(const Json* specs, array_member(document, "added_tokens"));
  RegexScratch scratch;
  int32_t next_id = vocabulary.count();
  std::unordered_map<int32_t, std::string> contents;  // by the id in the file
  for (size_t i = 0; i < specs->size(); ++i) {
    const std::string place = fmt::format("added_tokens[{}]", i);
    Result<AddedToken> parsed = parse_added_token((*specs)[i]);
    if (!parsed.ok()) return parsed.status().with_context(place);
    AddedToken& token = *parsed;
    if (token.content.empty()) continue;
    const auto [other, is_new] = contents.try_emplace(token.id, token.content);
    if (!is_new && other->second != token.content) {
      return bad_input(fmt::format("{}: the id {} is given to {} and to {}", place, token.id,
                                   format::display(other->second, 40), format::display(token.content, 40)));
    }
    int32_t id = 0;
    if (const AddedToken* known = tokens.by_content(token.content)) {
      id = known->id;
    } else if (const std::optional<int32_t> in_vocabulary = vocabulary.find(token.content)) {
      id = *in_vocabulary;
    } else {
      id = next_id++;
      if (tokens.by_id(id)) {
        return bad_input(fmt::format("{}: {} gets the id {}, which {} has: the ids of the vocabulary have gaps", place,
                                     format::display(token.content, 40), id,
                                     format::display(tokens.by_id(id)->content, 40)));
      }
      if (const auto other_text = vocabulary.text(id)) {
        warn(fmt::format("tokenizer.json: {}: {} shares the id {} with {}, as the ids of the vocabulary have gaps",
                         place, format::display(token.content, 40), id, format::display(*other_text, 40)));
      }
    }
    if (id != token.id) {
      warn(fmt::format("tokenizer.json: {}: {} has the id {} in the file, but {} by the rules of the format", place,
                       format::display(token.content, 40), token.id, id));
      token.id = id;
    }
    std::string normalized = token.content;
    if (token.normalized) normalizer.apply(normalized, scratch);
    tokens.add(std::move(token), std::move(normalized));
  }
  tokens.finish();
  return tokens;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> parse_tokenizer_json(std::string_view text) {
  DocumentReader reader;
  if (!Json::sax_parse(text, &reader)) {
    return reader.status.ok() ? bad_input("not valid JSON") : reader.status;
  }
  const Json& document = reader.document;
  if (!document.is_object()) return bad_input("must be a JSON object");
  AUTOGLM_ASSIGN_OR_RETURN(Normalizer normalizer, Normalizer::from_json(find_member(document, "normalizer")));
  AUTOGLM_ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::from_json(find_member(document, "pre_tokenizer")));
  AUTOGLM_ASSIGN_OR_RETURN(PostProcessor post_processor,
                           PostProcessor::from_json(find_member(document, "post_processor")));
  AUTOGLM_ASSIGN_OR_RETURN(Decoder decoder, Decoder::from_json(find_member(document, "decoder")));
  const bool byte_level = pre_tokenizer.ends_byte_level();
  Result<Bpe> model = parse_model(reader, byte_level);
  if (!model.ok()) return model.status().with_context("model");
  AUTOGLM_ASSIGN_OR_RETURN(AddedTokens added_tokens, parse_added_tokens(document, model->vocabulary(), normalizer));
  return std::unique_ptr<Tokenizer>(std::make_unique<BpeTokenizer>(
      BpeTokenizerParts{byte_level ? "byte-level bpe" : "bpe", std::move(normalizer), std::move(pre_tokenizer),
                        std::move(*model), std::move(added_tokens), std::move(post_processor), std::move(decoder)}));
}

}  // namespace autoglm::tokenizer
