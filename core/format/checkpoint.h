#pragma once
/// Checkpoint: the tensors of a Hugging Face folder, from model.safetensors or from the shards that
/// model.safetensors.index.json names. Nothing is read until it is asked for.
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/format/mapped_file.h"
#include "core/format/safetensors.h"

namespace autoglm::format {

/// Immutable and thread-safe after opening.
class Checkpoint {
 public:
  /// kBadInput: no such folder, no weights in it, a shard that the index names is missing, a tensor that the index
  /// names is not in its shard, a name that two shards hold.
  static Result<Checkpoint> open(const std::filesystem::path& folder);

  /// The checkpoint that these tensors (name, type, shape) would be: known by their headers, without a file. `bytes`
  /// are refused.
  static Checkpoint describe(const std::filesystem::path& folder, std::vector<TensorInfo> tensors);

  /// Whether the folder has any weight file that `open` reads.
  static bool is_in(const std::filesystem::path& folder);

  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  const std::filesystem::path& folder() const;
  const std::vector<std::string>& names() const;     ///< every tensor, shard by shard in order of its bytes
  std::vector<std::filesystem::path> files() const;  ///< the weight files
  int64_t total_bytes() const;                       ///< bytes of all tensors, headers excluded

  const TensorInfo* find(std::string_view name) const;                         ///< nullptr when absent
  Result<std::span<const std::byte>> bytes(std::string_view name) const;       ///< kBadInput when absent
  void release(std::string_view name) const;                                   ///< see SafetensorsFile::release
  void read_ahead(std::string_view name, int64_t first, int64_t count) const;  ///< see SafetensorsFile::read_ahead
  void keep() const;                                                           ///< see MappedFile::keep, all files

  /// The file that holds `name`, for error messages; the folder when absent or without a file.
  std::filesystem::path file_of(std::string_view name) const;

 private:
  struct Impl;
  explicit Checkpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace autoglm::format
