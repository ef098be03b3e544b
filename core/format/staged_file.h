#pragma once
/// StagedFile: one file built aside and put in place at once.
///
/// It is written as the hidden sibling `.NAME.autoglm-part`, under an flock: what a killed process left there is
/// written over by the next one. Renamed over the target, it appears whole or not at all.
#include <filesystem>

#include "core/base/status.h"
#include "core/format/file.h"

namespace autoglm::format {

class StagedFile {
 public:
  /// Missing parents of `target` are created. kInvalidArgument: the target exists and `overwrite` is off, or it is no
  /// regular file. kResourceExhausted: not writable, or another process is writing it.
  static Result<StagedFile> create(const std::filesystem::path& target, bool overwrite);

  StagedFile(StagedFile&&) noexcept = default;
  StagedFile& operator=(StagedFile&&) noexcept = default;
  ~StagedFile();  ///< removes the file, and parents that `create` made, unless it was published

  const FileDescriptor& fd() const { return fd_; }                 ///< for reading and writing
  const std::filesystem::path& target() const { return target_; }  ///< for messages

  /// Makes the contents durable and puts the file in place. kInvalidArgument: a target came up meanwhile, and
  /// `overwrite` is off.
  Status publish();

 private:
  StagedFile() = default;

  FileDescriptor fd_;  // invalid: nothing to remove
  std::filesystem::path path_, target_;
  CreatedParents created_parents_;
  bool overwrite_ = false;
};

}  // namespace autoglm::format
