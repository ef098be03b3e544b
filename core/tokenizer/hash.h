#pragma once
/// Hashing for the tables of the tokenizers; not for untrusted collisions, not stable between versions.
#include <cstdint>
#include <cstring>
#include <string_view>

namespace autoglm::tokenizer {

/// A bijection of 64 bits that spreads every input bit (the finalizer of MurmurHash3).
inline uint64_t mix_bits(uint64_t x) {
  x = (x ^ x >> 33) * 0xff51afd7ed558ccdULL;
  x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53ULL;
  return x ^ x >> 33;
}

inline uint64_t hash_bytes(std::string_view bytes) {
  uint64_t h = bytes.size() * 0x9e3779b97f4a7c15ULL;
  const char* p = bytes.data();
  size_t left = bytes.size();
  for (; left >= 8; p += 8, left -= 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    h = mix_bits(h ^ word);
  }
  uint64_t word = 0;
  std::memcpy(&word, p, left);
  return mix_bits(h ^ word);
}

}  // namespace autoglm::tokenizer
