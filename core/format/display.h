#pragma once
/// Names from untrusted files, made fit for one line of a message.
#include <filesystem>
#include <string>
#include <string_view>

namespace autoglm::format {

/// `text` in single quotes: control and direction-changing characters, quotes, backslashes and bytes that are no UTF-8
/// are written as \n, \xNN; what is longer than `max_bytes` ends in "...".
std::string display(std::string_view text, size_t max_bytes = 160);

/// The same for a path, without the quotes and with a larger bound.
std::string display_path(const std::filesystem::path& path);

/// Whether `text` is well-formed UTF-8 (JSON and safetensors know nothing else).
bool is_utf8(std::string_view text);

}  // namespace autoglm::format
