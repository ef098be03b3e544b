#include "core/format/display.h"

#include <fmt/format.h>

#include <cstdint>

namespace autoglm::format {
namespace {

/// Length of the well-formed UTF-8 sequence that `text` starts with and its code point; 0 when there is none.
size_t decode_utf8(std::string_view text, uint32_t& code) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  const size_t length = lead < 0x80                   ? 1
                        : lead >= 0xC2 && lead < 0xE0 ? 2
                        : (lead & 0xF0) == 0xE0       ? 3
                        : lead >= 0xF0 && lead < 0xF5 ? 4
                                                      : 0;
  if (length == 0 || length > text.size()) return 0;
  code = length == 1 ? lead : lead & (0x7Fu >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3Fu);
  }
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xD800 && code < 0xE000;
  return code < kSmallest[length] || code > 0x10FFFF || surrogate ? 0 : length;
}

/// Characters that would break or reorder a terminal line: C0, DEL, C1, line separators, bidirectional controls.
bool is_unsafe(uint32_t code) {
  return code < 0x20 || (code >= 0x7F && code < 0xA0) || code == 0x2028 || code == 0x2029 ||
         (code >= 0x200E && code <= 0x200F) || (code >= 0x202A && code <= 0x202E) ||
         (code >= 0x2066 && code <= 0x2069) || code == 0xFEFF;
}

std::string escape(std::string_view text, size_t max_bytes, std::string_view also_escaped) {
  std::string out;
  while (!text.empty()) {
    if (out.size() >= max_bytes) return out + "...";
    uint32_t code = 0;
    const size_t length = decode_utf8(text, code);
    if (length == 0 || is_unsafe(code)) {
      const size_t bytes = length == 0 ? 1 : length;
      for (size_t i = 0; i < bytes; ++i) {
        out += code == '\n' ? "\\n" : code == '\t' ? "\\t" : fmt::format("\\x{:02x}", static_cast<uint8_t>(text[i]));
      }
      text.remove_prefix(bytes);
      continue;
    }
    if (length == 1 && also_escaped.find(text[0]) != std::string_view::npos) out += '\\';
    out += text.substr(0, length);
    text.remove_prefix(length);
  }
  return out;
}

}  // namespace

std::string display(std::string_view text, size_t max_bytes) { return "'" + escape(text, max_bytes, "'\\") + "'"; }

std::string display_path(const std::filesystem::path& path) { return escape(path.string(), 1024, ""); }

bool is_utf8(std::string_view text) {
  uint32_t code = 0;
  while (!text.empty()) {
    const size_t length = decode_utf8(text, code);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

}  // namespace autoglm::format
