#include "core/tokenizer/tokenizer.h"

namespace autoglm::tokenizer {

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  const std::unique_ptr<Decoding> decoding = start_decoding(skip_special_tokens);
  std::string text;
  for (const int32_t id : ids) decoding->push(id, text);
  decoding->finish(text);
  return text;
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : decoding_(tokenizer.start_decoding(skip_special_tokens)) {}

std::string StreamDecoder::push(int32_t id) {
  std::string text;
  decoding_->push(id, text);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  decoding_->finish(text);
  return text;
}

}  // namespace autoglm::tokenizer
