#pragma once
/// MappedFile: a whole file mapped for reading.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <utility>

#include "core/base/status.h"

namespace autoglm::format {

/// How far before they get there those who go through a file from front to end have it read.
inline constexpr int64_t kReadAheadBytes = 16 << 20;

/// Immutable and thread-safe; the bytes live as long as the object. Reading them after another process has cut the file
/// short ends in SIGBUS, as with any mapped file.
class MappedFile {
 public:
  /// kBadInput: no regular file, or an empty one.
  static Result<MappedFile> open(const std::filesystem::path& path);

  MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MappedFile();

  std::span<const std::byte> bytes() const { return bytes_; }

  /// Gives the pages of [offset, offset + count) back to the kernel, so that they no longer count as resident. Always
  /// safe: pages that are read again, by this thread or another, come back from the file.
  void release(int64_t offset, int64_t count) const;

  /// Asks the kernel to read [offset, offset + count), as far as the file goes, before it is needed; does not wait.
  void read_ahead(int64_t offset, int64_t count) const;

  /// Tells the kernel that pages are used where they lie, again and again, instead of once from the start to the end:
  /// to be said before they are first read. What is not in the page cache yet comes in huge pages where the file system
  /// has them.
  void keep() const;

 private:
  explicit MappedFile(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::span<const std::byte> bytes_;
};

}  // namespace autoglm::format
