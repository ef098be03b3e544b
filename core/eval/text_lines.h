#pragma once
/// Reading JSON lines that others wrote, one at a time.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string_view>

#include "core/base/status.h"

namespace autoglm::eval {

/// Longest line of a .jsonl file; a longer one is refused.
inline constexpr int64_t kMaxLineBytes = 16 << 20;

/// kBadInput: not there, or no regular file (a pipe would have no size).
Result<int64_t> text_file_size(const std::filesystem::path& path);

std::string_view without_byte_order_mark(std::string_view text);

/// The value of the first line, which must be one.
Result<nlohmann::ordered_json> first_json_line(const std::filesystem::path& path);

/// Calls `visit` with each line's JSON value. Blank lines, and those (counted from 1) for which `wanted` is false, are
/// skipped. Invalid UTF-8 becomes U+FFFD. An error of `visit`, or a line that is no JSON, comes back as
/// "FILE:LINE: what is wrong".
Status for_each_json_line(const std::filesystem::path& path, const std::function<bool(int64_t line)>& wanted,
                          const std::function<Status(const nlohmann::ordered_json&)>& visit);

}  // namespace autoglm::eval
