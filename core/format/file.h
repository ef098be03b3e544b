#pragma once
/// Small files read whole, and what writing takes.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/cancel.h"
#include "core/base/status.h"

namespace autoglm::format {

/// Owns an open file descriptor; -1 is none.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor() { close(); }

  bool valid() const { return fd_ >= 0; }
  int get() const { return fd_; }
  bool close();  ///< false, with errno, when the system reports a late write error

 private:
  int fd_ = -1;
};

/// The folders above a path that were missing, made; removed again when destroyed, as far as nothing came into them,
/// unless they were kept.
class CreatedParents {
 public:
  /// kResourceExhausted or kBadInput: one cannot be made.
  static Result<CreatedParents> of(const std::filesystem::path& target);

  CreatedParents() = default;
  CreatedParents(CreatedParents&&) noexcept = default;
  CreatedParents& operator=(CreatedParents&& other) noexcept {
    std::swap(made_, other.made_);
    return *this;
  }
  ~CreatedParents();

  void keep() { made_.clear(); }

 private:
  std::vector<std::filesystem::path> made_;  // outermost first
};

/// kResourceExhausted, naming `shown`: less is free than `needed` on the file system that holds `path`.
Status check_space(const std::filesystem::path& path, int64_t needed, const std::filesystem::path& shown);

/// Bytes that are free to this process there; -1 where that cannot be found out.
int64_t free_bytes(const std::filesystem::path& path);

/// Opens a regular file for reading and finds its size; never waits (FIFOs, devices are refused). The message names the
/// path.
struct OpenedFile {
  FileDescriptor fd;
  int64_t size = 0;
};
Result<OpenedFile> open_regular_file(const std::filesystem::path& path);

/// A failed system call as Status: kResourceExhausted where disk, memory, descriptors or permission lack, else
/// kBadInput. "PATH: WHAT: No space left on device".
Status system_failure(const std::filesystem::path& path, std::string_view what, int error);

/// Writes all of `bytes` to `fd`; `path` is for the message.
Status write_all(const FileDescriptor& fd, std::span<const std::byte> bytes, const std::filesystem::path& path);

/// The same from byte `at` of the file on, and all of `bytes` read from there; an end before that is a failure.
Status write_at(const FileDescriptor& fd, int64_t at, std::span<const std::byte> bytes,
                const std::filesystem::path& path);
Status read_at(const FileDescriptor& fd, int64_t at, std::span<std::byte> bytes, const std::filesystem::path& path);

/// Puts a small file in place whole, durably: the old one stands, or the new one. What stood there is replaced.
/// kResourceExhausted: disk or permission lacks; nothing new is left then.
Status replace_file(const std::filesystem::path& path, std::string_view contents);

/// SHA-256 of a file of any size, read in pieces. kCancelled between two of them; `cancel` may be null.
Result<std::string> sha256_of_file(const std::filesystem::path& path, const CancelToken* cancel = nullptr);

/// Whether writing `output`, a folder or a file, would take the place of what `input` is read from.
bool lies_in(const std::filesystem::path& input, const std::filesystem::path& output);

/// Makes the entries of a folder (creations, renames) survive a power cut.
Status sync_folder(const std::filesystem::path& folder);

/// Reads a whole file of at most `max_bytes` (config files; never weights).
Result<std::string> read_text_file(const std::filesystem::path& path, int64_t max_bytes = 256 << 20);

}  // namespace autoglm::format
