#pragma once
/// The Tokenizer made of parts, as tokenizer.json describes it: added tokens, normalizer, pre-tokenizer, byte-pair
/// encoder, post-processor, decoder.
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/tokenizer/added_tokens.h"
#include "core/tokenizer/bpe.h"
#include "core/tokenizer/decoder.h"
#include "core/tokenizer/normalizer.h"
#include "core/tokenizer/post_processor.h"
#include "core/tokenizer/pre_tokenizer.h"
#include "core/tokenizer/tokenizer.h"

namespace autoglm::tokenizer {

struct BpeTokenizerParts {
  std::string kind;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Bpe model;
  AddedTokens added_tokens;
  PostProcessor post_processor;
  Decoder decoder;
};

class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(BpeTokenizerParts parts) : parts_(std::move(parts)) {}

  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const override;
  std::unique_ptr<Decoding> start_decoding(bool skip_special_tokens) const override;
  int32_t vocab_size() const override;
  std::optional<int32_t> token_to_id(std::string_view token) const override;
  std::string id_to_token(int32_t id) const override;
  bool is_special(int32_t id) const override;
  std::string_view kind() const override { return parts_.kind; }

 private:
  struct Scratch {
    RegexScratch regex;
    BpeScratch bpe;
  };
  class TokenDecoding;
  class ScratchLease;

  void encode_plain(std::string_view text, bool at_start, bool parse_special, Scratch& scratch,
                    std::vector<int32_t>& ids) const;

  BpeTokenizerParts parts_;
  // Buffers and word caches that no call is using: as many as there were calls at once.
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> idle_;
};

}  // namespace autoglm::tokenizer
