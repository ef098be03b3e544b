#pragma once
/// SHA-256 (FIPS 180-4): what a file or a list of tokens is known by in records.
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace autoglm {

/// Of bytes that come in pieces.
class Sha256 {
 public:
  Sha256();

  void add(std::string_view bytes);

  /// 64 lowercase hexadecimal digits of what was added. Nothing can be added after.
  std::string finish();

 private:
  void compress(const unsigned char* block);

  std::array<uint32_t, 8> state_;
  std::array<unsigned char, 64> pending_{};  // the beginning of a block
  uint64_t bytes_ = 0;
};

/// The digits of bytes that are there at once.
std::string sha256(std::string_view bytes);

}  // namespace autoglm
