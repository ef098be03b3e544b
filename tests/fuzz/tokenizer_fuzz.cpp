/// tokenizer.json: any bytes load or are refused with one line; what loads encodes and decodes.
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/tokenizer_json.h"
#include "tests/fuzz/require.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace autoglm::tokenizer;
  const auto tokenizer = parse_tokenizer_json({reinterpret_cast<const char*>(data), size});
  if (!tokenizer.ok()) {
    require(tokenizer.status().message().find('\n') == std::string::npos);
    return 0;
  }
  std::vector<int32_t> ids =
      (*tokenizer)->encode("Hello  wörld's 12345 中文\n\t<s>👍\xff</s> abABab ", {.add_special_tokens = true});
  for (int32_t id = -1; id < 40; ++id) ids.push_back(id);
  const std::string text = (*tokenizer)->decode(ids, true);
  StreamDecoder stream(**tokenizer, true);
  std::string streamed;
  for (const int32_t id : ids) streamed += stream.push(id);
  streamed += stream.finish();
  require(streamed == text);
  return 0;
}
