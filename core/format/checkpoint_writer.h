#pragma once
/// CheckpointWriter: streams a new Hugging Face folder to disk so that the target is always absent, the old one whole,
/// or the new one whole. Everything is written into a sibling `.NAME.autoglm-tmp-PID-RANDOM`, fsynced, and renamed (or
/// exchanged with an existing target, renameat2) by `commit`. The next writer for the same target clears what a killed
/// one left.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/format/dtype.h"
#include "core/format/file.h"

namespace autoglm::format {

struct WriterOptions {
  int64_t max_shard_bytes = 5'000'000'000;  ///< a tensor larger than this gets a shard of its own
  bool overwrite = false;                   ///< replace an existing target instead of refusing it
};

/// One folder being written. Not thread-safe. Destroyed before `commit`: removes what it wrote.
class CheckpointWriter {
 public:
  /// kInvalidArgument: the target exists and `overwrite` is off; or it exists and does not look like something this
  /// program may replace (a file, or a folder without config.json). kResourceExhausted: not writable.
  static Result<CheckpointWriter> create(const std::filesystem::path& target, const WriterOptions& options = {});

  CheckpointWriter(CheckpointWriter&&) noexcept;
  CheckpointWriter& operator=(CheckpointWriter&&) noexcept;
  ~CheckpointWriter();

  /// Appends a tensor to the current shard. `bytes` must be the product of shape and dtype long.
  Status add(std::string_view name, DType dtype, const Shape& shape, std::span<const std::byte> bytes);

  /// Writes a whole small file (config.json, report.md) or copies one from elsewhere, by the name it has in the folder
  /// (subfolders allowed, nothing outside).
  Status write_file(const std::filesystem::path& name, std::string_view contents);
  Status copy_file(const std::filesystem::path& from, const std::filesystem::path& name);

  /// Completes the shards and the index (one shard: model.safetensors alone), fsyncs, renames. Nothing can be added
  /// after.
  Status commit();

  const std::filesystem::path& target() const;
  const std::filesystem::path& staging() const;  ///< the sibling, for readers before the commit (verification)
  int64_t tensor_bytes() const;                  ///< written so far

 private:
  struct Impl;
  explicit CheckpointWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace autoglm::format
