#pragma once
/// StagingFolder: a folder built aside and put in place at once.
///
/// The staging folder is a sibling of the target, `.NAME.autoglm-tmp-PID-RANDOM`, so that one rename(2) publishes it
/// (a long NAME is cut and followed by its hash).
/// Its owner holds an flock on it for as long as it lives: a staging folder that can be locked was left by a killed
/// process and is removed by the next writer for the same target; one that cannot is left alone.
///
/// An existing target is exchanged (renameat2, RENAME_EXCHANGE) and the old folder, now under the staging name,
/// removed. Where the filesystem cannot exchange, the target is first renamed to `.NAME.autoglm-old-PID-RANDOM`; if the
/// process dies right then, the target is absent and the next writer brings the old folder back.
#include <filesystem>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/format/file.h"

namespace autoglm::format {

/// The hidden sibling `.NAME.autoglm-KIND` of `target` (absolute, links resolved), and of no other target. A long NAME
/// is cut; its hash stands for the rest.
std::filesystem::path sibling_of(const std::filesystem::path& target, std::string_view kind);

/// The lock of a folder (flock), held as long as the descriptor; invalid when another process has it, when the folder
/// is gone or is none. File systems without flock (some network ones) give an unlocked descriptor, but only if
/// `or_unlocked`.
FileDescriptor lock_folder(const std::filesystem::path& folder, bool or_unlocked = false);

class StagingFolder {
 public:
  /// Creates missing parents of `target`, clears what killed writers for it left, creates the folder. A link is
  /// followed: what it points to is replaced. kInvalidArgument: the target exists and is not an empty folder, unless
  /// `overwrite` and it holds a config.json. kResourceExhausted: cannot be written.
  static Result<StagingFolder> create(const std::filesystem::path& target, bool overwrite);

  StagingFolder(StagingFolder&&) noexcept = default;
  StagingFolder& operator=(StagingFolder&&) noexcept = default;
  ~StagingFolder();  ///< removes the folder, and parents that `create` made, unless it was published

  const std::filesystem::path& path() const { return path_; }
  const std::filesystem::path& target() const { return target_; }  ///< absolute, links resolved

  /// Puts the folder in place; path() is gone afterwards. The caller has fsynced what is in it. `exchange` false takes
  /// the way of filesystems without RENAME_EXCHANGE.
  Status publish(bool exchange = true);

 private:
  StagingFolder() = default;
  Status replace_target(bool exchange);

  std::filesystem::path path_, target_;
  CreatedParents created_parents_;
  FileDescriptor lock_;  // invalid: nothing to remove
  bool overwrite_ = false;
};

}  // namespace autoglm::format
