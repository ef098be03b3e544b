#include "core/tokenizer/byte_level.h"

#include <array>

#include "core/tokenizer/utf8.h"

namespace autoglm::tokenizer {
namespace {

constexpr int kAlphabetEnd = 0x100 + 68;  // 68 bytes have no printable character of their own

struct Alphabet {
  std::array<std::string, 256> character;
  std::array<int, kAlphabetEnd> byte;  // by code point; -1 for none

  Alphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      const char32_t c = printable ? static_cast<char32_t>(b) : next++;
      append_utf8(character[b], c);
      byte[c] = b;
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

}  // namespace

std::string_view byte_level_character(uint8_t byte) { return alphabet().character[byte]; }

std::string to_byte_level(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char c : bytes) out += alphabet().character[static_cast<uint8_t>(c)];
  return out;
}

std::optional<std::string> from_byte_level(std::string_view spelled) {
  std::string out;
  out.reserve(spelled.size());
  for (size_t at = 0; at < spelled.size();) {
    const Utf8Step step = utf8_step(spelled, at);
    if (step.kind != Utf8Kind::kValid || step.value >= kAlphabetEnd) return std::nullopt;
    const int byte = alphabet().byte[step.value];
    if (byte < 0) return std::nullopt;
    out += static_cast<char>(byte);
    at += step.size;
  }
  return out;
}

}  // namespace autoglm::tokenizer
