#pragma once
/// ShardWriter: one safetensors file, written front to back (checkpoint_writer.h says how the header gets its place).
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/format/file.h"
#include "core/format/quantized_weight.h"
#include "core/format/safetensors.h"

namespace autoglm::format {

class ShardWriter {
 public:
  static constexpr int64_t kMovedBytes = 64 << 20;  ///< data up to this is moved up to a header that fits exactly

  /// Hands out a tensor's bytes piece by piece, each valid until the next call; empty at the end. An error ends `add`.
  using Source = std::function<Result<std::span<const std::byte>>()>;

  /// Creates `path`, which must not exist, with `reserved` bytes (a multiple of 64) for length field and header.
  /// Messages name `shown` in its place.
  static Result<ShardWriter> create(const std::filesystem::path& path, const std::filesystem::path& shown,
                                    int64_t reserved);

  /// Bytes to reserve for a file of this tensor alone.
  static int64_t least_reserved(std::string_view name, const Shape& shape);

  /// Whether a tensor belongs at a shard's end, but is too large to be held in memory until then.
  static bool needs_own_shard(int64_t nbytes);

  int64_t data_bytes() const { return end_ + deferred_bytes_; }  ///< of all tensors
  int64_t deferred_bytes() const { return deferred_bytes_; }     ///< of those held in memory
  bool empty() const { return tensors_.empty() && deferred_.empty(); }
  const std::vector<std::string>& names() const { return names_; }

  /// Whether the header has room for one more.
  bool has_room(std::string_view name, const Shape& shape) const;

  /// `info` has name, dtype, shape and nbytes; its offset is decided here. A tensor that needs a shard of its own comes
  /// into an empty one, and none comes after it.
  Status add(TensorInfo info, const Source& source);

  /// Writes what was held back and the header, fsyncs and closes.
  Status finish();

 private:
  struct Deferred {
    TensorInfo info;
    std::vector<std::byte> bytes;
  };
  Status move_data(int64_t to);

  std::filesystem::path shown_;
  FileDescriptor fd_;
  int64_t reserved_ = 0;
  int64_t entries_bound_ = 0;  // bytes of their header entries, at most
  int64_t end_ = 0;            // of the data written, relative to its start
  int64_t deferred_bytes_ = 0;
  std::vector<TensorInfo> tensors_;  // in order of their bytes
  std::vector<Deferred> deferred_;
  std::vector<std::string> names_;
};

/// Writes a whole small safetensors file, which must not exist. kResourceExhausted: disk.
Status write_tensors(const std::filesystem::path& path, std::span<const StoredTensor> tensors);

}  // namespace autoglm::format
