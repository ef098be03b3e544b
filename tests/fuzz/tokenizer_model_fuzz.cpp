/// tokenizer.model, sentencepiece or tiktoken lines: any bytes load or are refused with one line; what loads encodes
/// and decodes.
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "core/tokenizer/sentencepiece.h"
#include "core/tokenizer/tiktoken.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/fuzz/require.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace autoglm::tokenizer;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = looks_like_tiktoken(bytes) ? parse_tiktoken(bytes, {})
                                                    : parse_sentencepiece(bytes, {}, SentencePieceFamily::kChatGlm3);
  if (!tokenizer.ok()) {
    require(tokenizer.status().message().find('\n') == std::string::npos);
    return 0;
  }
  std::vector<int32_t> ids =
      (*tokenizer)->encode("Hello  wörld ﬁ 123 中文\n[gMASK]sop<|user|>👍\xff", {.add_special_tokens = true});
  for (int32_t id = -1; id < 300; ++id) ids.push_back(id);
  (*tokenizer)->decode(ids, true);
  return 0;
}
