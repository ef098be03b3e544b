#include "core/tokenizer/bpe_tokenizer.h"

#include <algorithm>

#include "core/tokenizer/utf8.h"

namespace autoglm::tokenizer {

// Takes a Scratch out of the idle ones, or makes one, and puts it back.
class BpeTokenizer::ScratchLease {
 public:
  explicit ScratchLease(const BpeTokenizer& owner) : owner_(owner) {
    {
      const std::lock_guard lock(owner_.mutex_);
      if (!owner_.idle_.empty()) {
        scratch_ = std::move(owner_.idle_.back());
        owner_.idle_.pop_back();
      }
    }
    if (!scratch_) scratch_ = std::make_unique<Scratch>();
  }
  ~ScratchLease() {
    const std::lock_guard lock(owner_.mutex_);
    owner_.idle_.push_back(std::move(scratch_));
  }
  ScratchLease(const ScratchLease&) = delete;
  ScratchLease& operator=(const ScratchLease&) = delete;

  Scratch& operator*() { return *scratch_; }

 private:
  const BpeTokenizer& owner_;
  std::unique_ptr<Scratch> scratch_;
};

std::vector<int32_t> BpeTokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::string repaired;
  if (!is_valid_utf8(text)) {
    repaired = replace_invalid_utf8(text);
    text = repaired;
  }
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 4);
  ScratchLease scratch(*this);
  parts_.added_tokens.split(text, /*normalized=*/false, options.parse_special,
                            [&](std::string_view part, const AddedToken* token) {
                              if (token) {
                                ids.push_back(token->id);
                              } else {
                                encode_plain(part, part.data() == text.data(), options.parse_special, *scratch, ids);
                              }
                            });
  return options.add_special_tokens ? parts_.post_processor.apply(std::move(ids)) : ids;
}

void BpeTokenizer::encode_plain(std::string_view text, bool at_start, bool parse_special, Scratch& scratch,
                                std::vector<int32_t>& ids) const {
  std::string normalized;
  if (!parts_.normalizer.empty()) {
    normalized = text;
    parts_.normalizer.apply(normalized, scratch.regex);
    text = normalized;
  }
  const auto encode_words = [&](std::string_view part) {
    parts_.pre_tokenizer.split({part, at_start && part.data() == text.data()}, scratch.regex,
                               [&](Piece word) { parts_.model.encode(word.text, scratch.bpe, ids); });
  };
  parts_.added_tokens.split(text, /*normalized=*/true, parse_special,
                            [&](std::string_view part, const AddedToken* token) {
                              if (token) {
                                ids.push_back(token->id);
                              } else {
                                encode_words(part);
                              }
                            });
}

class BpeTokenizer::TokenDecoding final : public Decoding {
 public:
  TokenDecoding(const BpeTokenizerParts& parts, bool skip_special_tokens)
      : parts_(parts), skip_special_tokens_(skip_special_tokens), run_(parts.decoder.start()) {}

  void push(int32_t id, std::string& text) override {
    std::string_view token;
    if (const AddedToken* added = parts_.added_tokens.by_id(id)) {
      token = parts_.added_tokens.decoded_text(*added);
    } else if (const std::optional<std::string_view> known = parts_.model.vocabulary().text(id)) {
      token = *known;
    } else {
      return;
    }
    if (skip_special_tokens_ && parts_.added_tokens.is_special(token)) return;
    run_.push(std::string(token), text);
  }
  void finish(std::string& text) override { run_.finish(text); }

 private:
  const BpeTokenizerParts& parts_;
  bool skip_special_tokens_;
  DecoderRun run_;
};

std::unique_ptr<Decoding> BpeTokenizer::start_decoding(bool skip_special_tokens) const {
  return std::make_unique<TokenDecoding>(parts_, skip_special_tokens);
}

int32_t BpeTokenizer::vocab_size() const {
  return std::max(parts_.model.vocabulary().id_end(), parts_.added_tokens.id_end());
}

std::optional<int32_t> BpeTokenizer::token_to_id(std::string_view token) const {
  if (const AddedToken* added = parts_.added_tokens.by_content(token)) return added->id;
  return parts_.model.vocabulary().find(token);
}

std::string BpeTokenizer::id_to_token(int32_t id) const {
  if (const AddedToken* added = parts_.added_tokens.by_id(id)) return added->content;
  return std::string(parts_.model.vocabulary().text(id).value_or(""));
}

bool BpeTokenizer::is_special(int32_t id) const { return id >= 0 && parts_.added_tokens.is_special(id_to_token(id)); }

}  // namespace autoglm::tokenizer
