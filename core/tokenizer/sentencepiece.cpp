#include "core/tokenizer/sentencepiece.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <algorithm>
#include <charconv>

#include "core/format/display.h"
#include "core/tokenizer/added_tokens.h"
#include "core/tokenizer/post_processor.h"
#include "core/tokenizer/sentencepiece_model.h"
#include "core/tokenizer/utf8.h"

namespace autoglm::tokenizer {
namespace {

using Type = SentencePieceModel::Type;

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581

struct Parts {
  sentencepiece::SentencePieceProcessor processor;
  SentencePieceModel model;
  AddedTokens added_tokens;
  std::vector<AddedToken> after_special;  // tokens only where they directly follow another special token
  PostProcessor post_processor;

  int32_t piece_count() const { return static_cast<int32_t>(model.pieces.size()); }
  const AddedToken* added(int32_t id) const {
    const auto found = std::ranges::find(after_special, id, &AddedToken::id);
    return found == after_special.end() ? added_tokens.by_id(id) : &*found;
  }
};

// The byte of a piece <0xNN>.
char byte_of(std::string_view piece) {
  unsigned value = 0;
  if (piece.size() == 6) std::from_chars(piece.data() + 3, piece.data() + 5, value, 16);
  return static_cast<char>(value);
}

// As the library decodes, token by token. Added tokens split the sequence; every part is decoded on its own.
class PieceDecoding final : public Decoding {
 public:
  PieceDecoding(const Parts& parts, bool skip_special_tokens)
      : parts_(parts), skip_special_tokens_(skip_special_tokens) {}

  void push(int32_t id, std::string& text) override {
    if (const AddedToken* token = id >= parts_.piece_count() ? parts_.added(id) : nullptr) {
      finish(text);
      at_start_ = true;
      if (!(token->special && skip_special_tokens_)) text += token->content;
      return;
    }
    if (id < 0 || id >= parts_.piece_count()) return;
    const SentencePieceModel::Piece& piece = parts_.model.pieces[id];
    if (piece.type == Type::kByte) {
      bytes_ += byte_of(piece.text);
      emit_bytes(text, /*at_end=*/false);
      return;
    }
    finish(text);
    push_piece(piece, text);
  }

  void finish(std::string& text) override { emit_bytes(text, /*at_end=*/true); }

 private:
  void push_piece(const SentencePieceModel::Piece& piece, std::string& text) {
    if (piece.type == Type::kControl) return;
    if (piece.type == Type::kUnknown) {
      emit(parts_.model.unk_surface, text);
      return;
    }
    std::string_view rest = piece.text;
    const SentencePieceModel& model = parts_.model;
    if (at_start_ && (model.add_dummy_prefix || model.remove_extra_whitespaces) && rest.starts_with(kSpaceSymbol)) {
      rest.remove_prefix(kSpaceSymbol.size());
      // With extra white space removed, every leading space goes; otherwise the one that was added.
      if (!model.remove_extra_whitespaces) at_start_ = false;
    }
    std::string out;
    while (!rest.empty()) {
      if (rest.starts_with(kSpaceSymbol)) {
        out += ' ';
        rest.remove_prefix(kSpaceSymbol.size());
      } else {
        out += rest[0];
        rest.remove_prefix(1);
      }
    }
    emit(out, text);
  }

  void emit(std::string_view out, std::string& text) {
    text += out;
    if (!out.empty()) at_start_ = false;
  }

  // Whole characters; every byte that begins none becomes U+FFFD.
  void emit_bytes(std::string& text, bool at_end) {
    size_t done = 0;
    while (done < bytes_.size()) {
      const Utf8Step step = utf8_step(bytes_, done);
      if (step.kind == Utf8Kind::kTruncated && !at_end) break;
      if (step.kind == Utf8Kind::kValid) {
        emit(std::string_view(bytes_).substr(done, step.size), text);
        done += step.size;
      } else {
        emit(kReplacementCharacter, text);
        ++done;
      }
    }
    bytes_.erase(0, done);
  }

  const Parts& parts_;
  bool skip_special_tokens_;
  bool at_start_ = true;  // nothing was decoded yet: a leading space may be dropped
  std::string bytes_;     // the beginning of a character
};

class SentencePieceTokenizer final : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}

  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const override {
    std::string repaired;
    if (!is_valid_utf8(text)) {
      repaired = replace_invalid_utf8(text);
      text = repaired;
    }
    std::vector<int32_t> ids;
    bool after_special = false;
    parts_->added_tokens.split(text, /*normalized=*/false, options.parse_special,
                               [&](std::string_view part, const AddedToken* token) {
                                 if (token) {
                                   ids.push_back(token->id);
                                   after_special = true;
                                   return;
                                 }
                                 if (after_special) part = take_after_special(part, ids);
                                 after_special = false;
                                 encode_plain(part, ids);
                               });
    return options.add_special_tokens ? parts_->post_processor.apply(std::move(ids)) : ids;
  }

  std::unique_ptr<Decoding> start_decoding(bool skip_special_tokens) const override {
    return std::make_unique<PieceDecoding>(*parts_, skip_special_tokens);
  }

  int32_t vocab_size() const override {
    int32_t end = std::max(parts_->piece_count(), parts_->added_tokens.id_end());
    for (const AddedToken& token : parts_->after_special) end = std::max(end, token.id + 1);
    return end;
  }

  std::optional<int32_t> token_to_id(std::string_view token) const override {
    const auto found = std::ranges::find(parts_->after_special, token, &AddedToken::content);
    if (found != parts_->after_special.end()) return found->id;
    if (const AddedToken* added = parts_->added_tokens.by_content(token)) return added->id;
    const int id = parts_->processor.PieceToId({token.data(), token.size()});
    if (id < 0 || id >= parts_->piece_count() || parts_->model.pieces[id].text != token) return std::nullopt;
    return id;
  }

  std::string id_to_token(int32_t id) const override {
    if (id >= 0 && id < parts_->piece_count()) return parts_->model.pieces[id].text;
    const AddedToken* added = parts_->added(id);
    return added ? added->content : "";
  }

  bool is_special(int32_t id) const override {
    if (id >= 0 && id < parts_->piece_count()) {
      return parts_->model.pieces[id].type == Type::kControl || parts_->model.pieces[id].type == Type::kUnknown;
    }
    const AddedToken* added = parts_->added(id);
    return added && added->special;
  }

  std::string_view kind() const override { return "sentencepiece"; }

 private:
  std::string_view take_after_special(std::string_view part, std::vector<int32_t>& ids) const {
    for (bool found = true; found;) {
      found = false;
      for (const AddedToken& token : parts_->after_special) {
        if (!part.starts_with(token.content)) continue;
        ids.push_back(token.id);
        part.remove_prefix(token.content.size());
        found = true;
      }
    }
    return part;
  }

  void encode_plain(std::string_view text, std::vector<int32_t>& ids) const {
    if (text.empty()) return;
    std::vector<int> pieces;
    // The library fails on no valid text; if it did, that text would have no tokens.
    if (!parts_->processor.Encode({text.data(), text.size()}, &pieces).ok()) return;
    ids.insert(ids.end(), pieces.begin(), pieces.end());
  }

  std::unique_ptr<const Parts> parts_;
};

void add_chat_glm_tokens(Parts& parts, bool roles) {
  std::vector<std::string_view> names = {"[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"};
  if (roles) names.insert(names.end(), {"<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"});
  int32_t id = parts.piece_count();
  for (const std::string_view name : names) {
    AddedToken token{.content = std::string(name), .id = id++, .special = true};
    if (name == "sop" || name == "eop") {
      parts.after_special.push_back(std::move(token));
    } else {
      parts.added_tokens.add(std::move(token), std::string(name));
    }
  }
  parts.post_processor = PostProcessor::with_affixes({parts.piece_count() + 1, parts.piece_count() + 3}, {});
}

Status add_plain_tokens(Parts& parts, const TokenizerConfig& config) {
  const auto& pieces = parts.model.pieces;
  for (int32_t id = 0; id < parts.piece_count(); ++id) {
    if (pieces[id].type != Type::kControl && pieces[id].type != Type::kUnknown) continue;
    parts.added_tokens.add({.content = pieces[id].text, .id = id, .special = true}, pieces[id].text);
  }
  for (const AddedToken& token : config.added_tokens) {
    if (token.id < parts.piece_count()) {
      if (pieces[token.id].text == token.content) continue;
      return bad_input(fmt::format("added_tokens_decoder of tokenizer_config.json gives {} the id {}, which is taken",
                                   format::display(token.content, 40), token.id));
    }
    parts.added_tokens.add(token, token.content);
  }
  const auto affix = [&](int32_t id, bool wanted) {
    return wanted && id >= 0 && id < parts.piece_count() ? std::vector<int32_t>{id} : std::vector<int32_t>{};
  };
  parts.post_processor = PostProcessor::with_affixes(affix(parts.model.bos_id, config.add_bos_token.value_or(true)),
                                                     affix(parts.model.eos_id, config.add_eos_token.value_or(false)));
  return ok_status();
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> parse_sentencepiece(std::string_view bytes, const TokenizerConfig& config,
                                                       SentencePieceFamily family) {
  auto parts = std::make_unique<Parts>();
  AUTOGLM_ASSIGN_OR_RETURN(parts->model, parse_sentencepiece_model(bytes));
  const auto loaded = parts->processor.LoadFromSerializedProto({bytes.data(), bytes.size()});
  if (!loaded.ok()) return bad_input(fmt::format("not a sentencepiece model: {}", loaded.message()));
  if (parts->processor.GetPieceSize() != parts->piece_count()) return bad_input("the pieces are contradictory");
  if (family == SentencePieceFamily::kPlain) {
    AUTOGLM_RETURN_IF_ERROR(add_plain_tokens(*parts, config));
  } else {
    add_chat_glm_tokens(*parts, family == SentencePieceFamily::kChatGlm3);
  }
  parts->added_tokens.finish();
  return std::unique_ptr<Tokenizer>(std::make_unique<SentencePieceTokenizer>(std::move(parts)));
}

}  // namespace autoglm::tokenizer
