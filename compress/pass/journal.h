#pragma once
/// Journal: the finished parts of a run, kept beside its target until the artifact is in place, so that a run that was
/// killed can go on from there.
///
/// A folder `.NAME.autoglm-resume` next to the target, with `run.json`, which says what the parts were made from and
/// with, and one folder for each part. A part is there whole or not at all (CheckpointWriter), and its `part.json`
/// holds the SHA-256 of its files.
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/checkpoint.h"
#include "core/format/checkpoint_writer.h"
#include "core/format/file.h"

namespace autoglm::pass {

/// Not thread-safe.
class Journal {
 public:
  /// `run`: an object whose members decide every byte of the parts. Without `resume`, what an earlier run left is
  /// removed; with it, it is kept, and so is what this run leaves, however it ends.
  /// kInvalidArgument: another run is at work on `target`; what is to be resumed was made otherwise (the message names
  /// the members that differ). kBadInput: it is damaged.
  static Result<Journal> open(const std::filesystem::path& target, const nlohmann::json& run, bool resume);

  /// Removes what an earlier run for `target` left, unless it is still at work.
  static void clear(const std::filesystem::path& target);

  Journal(Journal&&) noexcept = default;
  Journal& operator=(Journal&&) noexcept = default;
  ~Journal();  ///< removes the folder, unless opened with `resume`

  void remove();  ///< whatever `open` was told: the artifact is in place

  bool has(const std::string& part) const;
  int64_t parts() const;  ///< that are there

  /// A finished part.
  struct Part {
    std::filesystem::path folder;
    format::Checkpoint tensors;
    nlohmann::json record;

    Status damaged() const;  ///< kBadInput: what it holds is not what it should
  };
  /// kBadInput: its files are not those that were written.
  Result<Part> read(const std::string& part, const CancelToken* cancel) const;

  /// A writer for the tensors and files of a part, to be handed to `finish` with what else is to be remembered.
  Result<format::CheckpointWriter> begin(const std::string& part, const CancelToken* cancel) const;
  /// Returns the part's folder.
  Result<std::filesystem::path> finish(format::CheckpointWriter& writer, const nlohmann::json& record) const;

 private:
  Journal() = default;

  std::filesystem::path folder_;
  format::FileDescriptor lock_;  // invalid: nothing to remove
  bool keep_ = false;
};

}  // namespace autoglm::pass
