#include "core/tokenizer/utf8.h"

#include <cstdint>
#include <cstring>

namespace autoglm::tokenizer {
namespace {

// The bytes that may follow a lead byte; the later ones are always 80..BF.
struct Lead {
  int size;
  uint8_t second_low;
  uint8_t second_high;
};

Lead lead_of(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};  // D800..DFFF are surrogates
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// Skips ASCII eight bytes at a time; returns the first byte that may not be ASCII.
size_t skip_ascii(std::string_view text, size_t at) {
  while (at + 8 <= text.size()) {
    uint64_t word;
    std::memcpy(&word, text.data() + at, 8);
    if (word & 0x8080808080808080u) break;
    at += 8;
  }
  return at;
}

}  // namespace

Utf8Step utf8_step(std::string_view text, size_t at) {
  const auto first = static_cast<uint8_t>(text[at]);
  const Lead lead = lead_of(first);
  if (lead.size == 0) return {1, Utf8Kind::kInvalid, 0};
  if (lead.size == 1) return {1, Utf8Kind::kValid, first};
  char32_t value = first & (0x7F >> lead.size);
  for (int i = 1; i < lead.size; ++i) {
    if (at + i == text.size()) return {static_cast<size_t>(i), Utf8Kind::kTruncated, 0};
    const auto byte = static_cast<uint8_t>(text[at + i]);
    const uint8_t low = i == 1 ? lead.second_low : 0x80;
    const uint8_t high = i == 1 ? lead.second_high : 0xBF;
    if (byte < low || byte > high) return {static_cast<size_t>(i), Utf8Kind::kInvalid, 0};
    value = value << 6 | (byte & 0x3F);
  }
  return {static_cast<size_t>(lead.size), Utf8Kind::kValid, value};
}

bool is_valid_utf8(std::string_view text) {
  for (size_t at = skip_ascii(text, 0); at < text.size(); at = skip_ascii(text, at)) {
    const Utf8Step step = utf8_step(text, at);
    if (step.kind != Utf8Kind::kValid) return false;
    at += step.size;
  }
  return true;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    out += step.kind == Utf8Kind::kValid ? text.substr(at, step.size) : kReplacementCharacter;
    at += step.size;
  }
  return out;
}

size_t truncated_utf8_tail(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const size_t at = text.size() - back;
    if ((static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) continue;  // a continuation byte: the lead is further left
    const Utf8Step step = utf8_step(text, at);
    return step.kind == Utf8Kind::kTruncated && step.size == back ? back : 0;
  }
  return 0;
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
    return;
  }
  if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
  } else {
    if (c < 0x10000) {
      out += static_cast<char>(0xE0 | c >> 12);
    } else {
      out += static_cast<char>(0xF0 | c >> 18);
      out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    }
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
  }
  out += static_cast<char>(0x80 | (c & 0x3F));
}

}  // namespace autoglm::tokenizer
