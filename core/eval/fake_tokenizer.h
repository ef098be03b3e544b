#pragma once
/// A tokenizer for the tests of this room: one token per byte.
#include <string>

#include "core/tokenizer/tokenizer.h"

namespace autoglm::eval {

class ByteTokenizer : public tokenizer::Tokenizer {
 public:
  std::vector<int32_t> encode(std::string_view text, const tokenizer::EncodeOptions& = {}) const override {
    bytes_encoded += static_cast<int64_t>(text.size());
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::unique_ptr<tokenizer::Decoding> start_decoding(bool) const override {
    struct Bytes : tokenizer::Decoding {
      void push(int32_t id, std::string& text) override { text += static_cast<char>(id); }
      void finish(std::string&) override {}
    };
    return std::make_unique<Bytes>();
  }
  int32_t vocab_size() const override { return 256; }
  std::optional<int32_t> token_to_id(std::string_view) const override { return std::nullopt; }
  std::string id_to_token(int32_t id) const override { return {static_cast<char>(id)}; }
  bool is_special(int32_t) const override { return false; }
  std::string_view kind() const override { return "bytes"; }

  mutable int64_t bytes_encoded = 0;
};

}  // namespace autoglm::eval
