#pragma once
/// FolderWriter: files of a new folder, durably, in place of the target all at once (staging_folder.h says how).
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string_view>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/file.h"
#include "core/format/staging_folder.h"

namespace autoglm::format {

struct FolderOptions {
  bool overwrite = false;               ///< replace an existing target instead of refusing it
  int64_t expected_bytes = 0;           ///< when known: refused at once if the disk has less free
  const CancelToken* cancel = nullptr;  ///< asked before every piece of a few MB; may be null
};

/// Not thread-safe. Destroyed before `commit`: removes what it wrote. After a failed write, or one that was cancelled,
/// every later call fails in the same way.
class FolderWriter {
 public:
  /// Missing parents of the target are created. kInvalidArgument: the target exists (an empty folder may) and
  /// `overwrite` is off; or it is not something this program may replace (a file, a folder without config.json).
  /// kResourceExhausted: not writable, or less free than `expected_bytes`.
  static Result<FolderWriter> create(const std::filesystem::path& target, const FolderOptions& options = {});

  /// Writes a whole small file (config.json, report.md) or copies one from elsewhere, by the name it has in the folder
  /// (subfolders allowed, nothing outside).
  Status write_file(const std::filesystem::path& name, std::string_view contents);
  Status copy_file(const std::filesystem::path& from, const std::filesystem::path& name);

  /// Creates a file of about `size` bytes and hands its descriptor, for reading and writing, to `fill`, with the path
  /// for messages; then makes it durable.
  using Fill = std::function<Status(const FileDescriptor& fd, const std::filesystem::path& shown)>;
  Status with_file(const std::filesystem::path& name, int64_t size, const Fill& fill);

  /// Makes the folder durable and puts it in place. Nothing can be added after.
  Status commit();

  /// Remembers the first failure of work on this folder, and returns it; where space lacks, with what `what` needs
  /// and what is free.
  Status fail(const Status& status, std::string_view what, int64_t needed);
  Status check_open() const;                        ///< the failure that is remembered; an error after `commit`
  Status check_cancelled() const;                   ///< kCancelled when it is
  void count(int64_t bytes) { written_ += bytes; }  ///< for `fail`'s message: the large files' contents

  const std::filesystem::path& target() const { return staging_.target(); }  ///< absolute, links resolved
  const std::filesystem::path& staging() const { return staging_.path(); }   ///< where the files lie before `commit`

 private:
  FolderWriter(StagingFolder staging, const FolderOptions& options) : staging_(std::move(staging)), options_(options) {}
  Status sync_folders() const;

  StagingFolder staging_;
  FolderOptions options_;
  int64_t written_ = 0;
  bool committed_ = false;
  Status failure_;  // the first one
};

}  // namespace autoglm::format
