#include <filesystem>
#include <new>

#include "core/format/display.h"
#include "core/format/file.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/tokenizer_json.h"

namespace autoglm::tokenizer {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxFileBytes = 1 << 29;

Result<std::unique_ptr<Tokenizer>> load_file(const fs::path& folder) {
  std::error_code error;
  const fs::path json = folder / "tokenizer.json";
  if (fs::exists(json, error)) {
    AUTOGLM_ASSIGN_OR_RETURN(const std::string text, format::read_text_file(json, kMaxFileBytes));
    Result<std::unique_ptr<Tokenizer>> tokenizer = parse_tokenizer_json(text);
    if (!tokenizer.ok()) return tokenizer.status().with_context(format::display_path(json));
    return tokenizer;
  }
  return bad_input(format::display_path(folder) +
                   ": no tokenizer: neither tokenizer.json nor tokenizer.model is there");
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> Tokenizer::load(const fs::path& folder) {
  try {
    return load_file(folder);
  } catch (const std::bad_alloc&) {
    return resource_exhausted(format::display_path(folder) + ": not enough memory for the tokenizer");
  } catch (const std::exception& e) {
    return internal_error(format::display_path(folder) + ": reading the tokenizer failed: " + e.what());
  }
}

}  // namespace autoglm::tokenizer
