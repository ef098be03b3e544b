#include "core/format/small_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "core/format/display.h"

namespace autoglm::format {

bool is_small_file(const std::string& name) {
  static const std::set<std::string> kinds = {".json", ".jinja", ".txt", ".model", ".tiktoken", ".md"};
  // A tokenizer's own code is named by tokenizer_config.json; a model's is not needed, its config being a known one.
  return kinds.contains(std::filesystem::path(name).extension().string()) || name == "LICENSE" ||
         (name.starts_with("tokenization_") && name.ends_with(".py"));
}

Status copy_small_files(const std::filesystem::path& from, FolderWriter& writer) {
  constexpr uintmax_t kLargest = 256 << 20;
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (std::filesystem::directory_iterator it(from, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    const bool own = name == "config.json" || name == "autoglm.json" || name == "report.json" || name == "report.md" ||
                     name.ends_with(".index.json");
    std::error_code ignored;
    if (is_small_file(name) && !own && it->is_regular_file(ignored) && it->file_size(ignored) <= kLargest)
      files.push_back(it->path());
  }
  if (error) return bad_input(fmt::format("{}: cannot list the folder: {}", display_path(from), error.message()));
  std::sort(files.begin(), files.end());
  for (const auto& file : files) AUTOGLM_RETURN_IF_ERROR(writer.copy_file(file, file.filename()));
  const std::filesystem::path tools = std::filesystem::path("additional_chat_templates") / "tool_use.jinja";
  if (std::filesystem::is_regular_file(from / tools, error)) return writer.copy_file(from / tools, tools);
  return ok_status();
}

}  // namespace autoglm::format
