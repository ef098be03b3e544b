#pragma once
/// Tokenizer: text to token ids and back, exactly as the reference implementation of each kind does it.
///
///   AUTOGLM_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::load(folder));
///   std::vector<int32_t> ids = tokenizer->encode("Hello");
///   std::string text = tokenizer->decode(ids);
///
/// A Tokenizer is immutable after loading and may be shared between threads.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace autoglm::tokenizer {

struct EncodeOptions {
  bool add_special_tokens = false;  ///< add what the post-processor adds (for GLM-4: [gMASK]<sop>)
  bool parse_special = true;        ///< "<|user|>" in the text becomes its one token instead of plain text
};

/// Decoding of one sequence, token by token. Text comes out as soon as no later token can change it, in whole
/// characters. Not thread-safe.
class Decoding {
 public:
  virtual ~Decoding() = default;
  virtual void push(int32_t id, std::string& text) = 0;  ///< appends the text that became certain, possibly none
  virtual void finish(std::string& text) = 0;            ///< appends what is left at the end of the sequence
};

class Tokenizer {
 public:
  /// Reads the tokenizer of a checkpoint folder: tokenizer.json, else tokenizer.model (tiktoken lines or
  /// sentencepiece). kBadInput names the file and what is missing or broken.
  static Result<std::unique_ptr<Tokenizer>> load(const std::filesystem::path& folder);

  /// The file that `load` would read; nothing where the folder has none.
  static std::optional<std::filesystem::path> find(const std::filesystem::path& folder);

  virtual ~Tokenizer() = default;

  /// Token ids of `text`. Invalid UTF-8 is replaced by U+FFFD as Python's errors="replace" does. Never fails.
  virtual std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const = 0;

  /// The text of `ids`. Unknown ids give nothing; bytes that form no character give U+FFFD.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = false) const;

  /// Decoding of a new sequence; the tokenizer must outlive it. See StreamDecoder.
  virtual std::unique_ptr<Decoding> start_decoding(bool skip_special_tokens) const = 0;

  virtual int32_t vocab_size() const = 0;  ///< one more than the largest id, added tokens included
  virtual std::optional<int32_t> token_to_id(std::string_view token) const = 0;
  virtual std::string id_to_token(int32_t id) const = 0;  ///< the vocabulary's own spelling; "" where there is none
  virtual bool is_special(int32_t id) const = 0;
  virtual std::string_view kind() const = 0;  ///< "byte-level bpe", "bpe", "tiktoken", "sentencepiece"
};

/// Decodes one token at a time and never emits half a character: text waits until it is certain. What push() and
/// finish() return, put together, is what decode() gives. The tokenizer must outlive it. One per sequence; not
/// thread-safe.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens = true);

  std::string push(int32_t id);  ///< text that became certain with this token, possibly none
  std::string finish();          ///< what is left at the end of the sequence, incomplete bytes as U+FFFD

 private:
  std::unique_ptr<Decoding> decoding_;
};

}  // namespace autoglm::tokenizer
