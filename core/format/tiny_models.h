#pragma once
/// For the tests of every room: the tiny checkpoints with what Hugging Face computes with them
/// (tests/data/make_golden.py).
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

namespace autoglm::format {

inline const std::filesystem::path kTiny = std::filesystem::path(AUTOGLM_SOURCE_DIR) / "tests/data/tiny";

/// The name of every one that there is, sorted.
inline std::vector<std::string> tiny_families() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kTiny)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace autoglm::format
