#pragma once
/// safetensors by memory map: an 8-byte little-endian header length, a JSON header {name: {dtype, shape,
/// data_offsets}}, then one buffer that the tensors fill without overlap or hole.
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/format/dtype.h"

namespace autoglm::format {

/// Where a tensor lies; offsets are relative to the file's start.
struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  int64_t offset = 0;
  int64_t nbytes = 0;
};

/// What a header says, checked against the length of the file.
struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;              ///< in order of their bytes
  std::map<std::string, std::string> metadata;  ///< __metadata__
};

/// Checks the whole of `file`, a safetensors file in memory, as `SafetensorsFile::open` does. The message names the
/// tensor at fault, not the file.
Result<SafetensorsHeader> parse_safetensors(std::span<const std::byte> file);

/// One mapped file. Every length, offset, shape product, overlap, hole, dtype and duplicate name has been checked when
/// `open` returns. Immutable and thread-safe; the spans it gives live as long as the object.
class SafetensorsFile {
 public:
  /// kBadInput names the file and the tensor at fault.
  static Result<SafetensorsFile> open(const std::filesystem::path& path);

  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;
  ~SafetensorsFile();

  const std::filesystem::path& path() const;
  const std::vector<TensorInfo>& tensors() const;              ///< in order of their bytes
  const std::map<std::string, std::string>& metadata() const;  ///< the header's __metadata__
  const TensorInfo* find(std::string_view name) const;         ///< nullptr when absent
  std::span<const std::byte> bytes(const TensorInfo& tensor) const;

  /// As of MappedFile: the tensor's pages are given back; `count` bytes from its byte `first` on, those of tensors
  /// behind it too, are read ahead; pages of the file are used where they lie.
  void release(const TensorInfo& tensor) const;
  void read_ahead(const TensorInfo& tensor, int64_t first, int64_t count) const;
  void keep() const;

 private:
  struct Impl;
  explicit SafetensorsFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace autoglm::format
