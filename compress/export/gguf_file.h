#pragma once
/// GgufFile: a GGUF file (version 3, little-endian) being written front to back.
///
///   "GGUF", u32 version, u64 number of tensors, u64 number of metadata
///   metadata: string key, u32 type, value (a string: u64 length, bytes; an array: u32 type, u64 count, values)
///   tensors: string name, u32 dimensions, u64 each (the innermost first), u32 ggml type, u64 offset from the data
///   padding to 32 bytes, then every tensor's rows, each tensor padded to 32 bytes
/// (github.com/ggml-org/ggml, docs/gguf.md)
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "compress/export/ggml_block.h"
#include "core/base/status.h"
#include "core/format/staged_file.h"

namespace autoglm::exports {

using GgufValue = std::variant<uint32_t, float, bool, std::string, std::vector<std::string>, std::vector<int32_t>,
                               std::vector<float>>;

struct GgufMetadata {
  std::string key;
  GgufValue value;
};

struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;
  format::Shape shape;  ///< [out, in] as everywhere here, [experts, out, in], or [n]
  int64_t offset = 0;   ///< in the file; set by begin()

  int64_t cols() const { return shape.back(); }
  int64_t rows() const { return format::element_count(shape).value_or(0) / cols(); }
  int64_t bytes() const { return rows() * row_bytes(type, cols()); }
};

class GgufFile {
 public:
  /// Writes everything before the data; the offsets of `tensors` are set. kResourceExhausted: the disk has less free
  /// than the file will take, or cannot be written.
  static Result<GgufFile> begin(format::StagedFile file, std::span<const GgufMetadata> metadata,
                                std::vector<GgufTensor> tensors);

  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  int64_t bytes() const { return end_; }  ///< of the whole file

  /// Writes rows of a tensor at their place.
  Status write(const GgufTensor& tensor, int64_t first_row, std::span<const std::byte> bytes);

  /// Reads them back from the file.
  Status read(const GgufTensor& tensor, int64_t first_row, std::span<std::byte> bytes) const;

  Status publish() { return file_.publish(); }
  const std::filesystem::path& target() const { return file_.target(); }

 private:
  explicit GgufFile(format::StagedFile file) : file_(std::move(file)) {}
  format::StagedFile file_;
  std::vector<GgufTensor> tensors_;
  int64_t end_ = 0;
};

}  // namespace autoglm::exports
