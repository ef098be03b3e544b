// tokenizer.json as it is written into GGUF.
#include <cstddef>
#include <cstdint>
#include <string>

#include "compress/export/gguf_tokenizer.h"
#include "tests/fuzz/require.h"
#include "tests/fuzz/scratch.h"

using namespace autoglm;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  format::ModelConfig config;
  config.vocab_size = 300;
  config.eos_token_ids = {1, 2, 3, 4};
  const auto path = fuzz::scratch_file("tokenizer.json", data, size);
  const auto found = exports::tokenizer_metadata(path.parent_path(), config, "");
  const auto named = exports::tokenizer_metadata(path.parent_path(), config, "glm4");
  require(named.ok() || !found.ok());
  for (const auto* result : {&found, &named}) {
    if (!result->ok()) {
      require(result->status().message().find("tokenizer.json") != std::string::npos);
      require(result->status().message().find('\n') == std::string::npos);
      continue;
    }
    for (const exports::GgufMetadata& entry : **result) {
      const auto* tokens = std::get_if<std::vector<std::string>>(&entry.value);
      require(entry.key != "tokenizer.ggml.tokens" || (tokens != nullptr && tokens->size() == 300));
    }
  }
  return 0;
}
