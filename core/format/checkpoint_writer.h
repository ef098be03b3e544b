#pragma once
/// CheckpointWriter: streams a new Hugging Face folder to disk so that the target is always absent, the old one whole,
/// or the new one whole (folder_writer.h).
///
/// A shard's header stands before its data, but is known only at its end. Data is therefore written behind a reserved
/// region, which the header fills at the end, padded with spaces as the format allows; small shards are then moved up
/// so that nothing is wasted. A header that outgrows its region ends the shard, and the next region is four times as
/// large. Tensors whose length is no multiple of 8 are held back to the shard's end, larger elements first: every
/// tensor is aligned to its element, which readers that map the file rely on. Those of them that are over 64 MiB are
/// not held in memory, but have a shard of their own.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/base/cancel.h"
#include "core/base/status.h"
#include "core/format/checkpoint.h"
#include "core/format/dtype.h"
#include "core/format/folder_writer.h"
#include "core/format/shard_writer.h"

namespace autoglm::format {

/// What is kept free for a file's header at first, four times as much where that was too little; files of up to
/// ShardWriter::kMovedBytes of data are made to fit in the end.
inline constexpr int64_t kFirstReserve = 256 << 10;  // room for about 2000 tensors

struct WriterOptions {
  int64_t max_shard_bytes = 5'000'000'000;  ///< of tensors; one that is larger gets a shard of its own
  bool overwrite = false;                   ///< replace an existing target instead of refusing it
  int64_t expected_bytes = 0;               ///< when known: refused at once if the disk has less free
  const CancelToken* cancel = nullptr;      ///< asked before every piece of a few MB; may be null
};

/// What of a tensor is copied, and on which condition.
struct CopyOptions {
  int64_t first_row = 0;
  std::optional<int64_t> rows;  ///< of the first dimension; none: the whole tensor
  bool finite = false;  ///< kBadInput, with file, tensor and element, at the first float that is NaN or infinite
};

/// One folder being written. Not thread-safe. Destroyed before `commit`: removes what it wrote. After a failed
/// write, or one that was cancelled, every later call fails in the same way.
class CheckpointWriter {
 public:
  /// Missing parents of the target are created. kInvalidArgument: the target exists (an empty folder may) and
  /// `overwrite` is off; or it is not something this program may replace (a file, a folder without config.json).
  /// kResourceExhausted: not writable, or less free than `expected_bytes`.
  static Result<CheckpointWriter> create(const std::filesystem::path& target, const WriterOptions& options = {});

  CheckpointWriter(CheckpointWriter&&) noexcept;
  CheckpointWriter& operator=(CheckpointWriter&&) noexcept;
  ~CheckpointWriter();

  /// Appends a tensor to the current shard. kInvalidArgument: a name that was used, `bytes` that are not the product of
  /// shape and dtype long. kResourceExhausted: disk full (with what is needed and free).
  Status add(std::string_view name, DType dtype, const Shape& shape, std::span<const std::byte> bytes);

  /// The same of bytes that come piece by piece (ShardWriter::Source), so that a large tensor need not be in memory.
  Status add_streamed(std::string_view name, DType dtype, const Shape& shape, const ShardWriter::Source& source);

  /// Appends a tensor of another checkpoint as it is, in pieces: its pages do not stay in memory.
  Status add(std::string_view name, const Checkpoint& from, std::string_view source_name,
             const CopyOptions& options = {});

  /// The folder, for files beside the tensors; write_file and copy_file are its own.
  FolderWriter& folder();
  Status write_file(const std::filesystem::path& name, std::string_view contents);
  Status copy_file(const std::filesystem::path& from, const std::filesystem::path& name);

  /// Completes the shards and the index (one shard: model.safetensors alone): staging() is a whole model folder from
  /// here on. No tensor can be added after; files can.
  Status finish();

  /// Finishes, fsyncs and puts the folder in place. Nothing can be added after.
  Status commit();

  const std::filesystem::path& target() const;   ///< absolute, links resolved
  const std::filesystem::path& staging() const;  ///< the sibling, for readers between `finish` and `commit`
  int64_t tensor_bytes() const;                  ///< added so far

 private:
  struct Impl;
  explicit CheckpointWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace autoglm::format
