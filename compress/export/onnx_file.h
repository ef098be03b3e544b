#pragma once
/// OnnxFile: a model.onnx whose large tensors are written piece by piece.
///
/// A ModelProto (github.com/onnx/onnx, onnx.proto) holds its graph as one length-delimited field, and the graph its
/// tensors as such fields too. The sizes of all are known beforehand: everything but the tensors' bytes is written
/// first, with their places left open. Above 1 GiB of them they lie in model.onnx.data (ONNX's external data), since a
/// protobuf message ends at 2 GB.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/format/dtype.h"
#include "core/format/folder_writer.h"

namespace onnx {
class ModelProto;
}

namespace autoglm::exports {

/// A matrix [rows, cols] of elements, or a vector (one column), and how the file holds it.
struct OnnxTensor {
  std::string name;
  int32_t type = 0;     ///< onnx::TensorProto::DataType
  format::Shape shape;  ///< as the file says
  int64_t rows = 0, cols = 1;
  int64_t stride = 1;       ///< elements from row to row, at least `cols`; not of a transposed one
  int bits = 8;             ///< of an element: 2, 4, 8 or more whole bytes, lowest bits first
  bool transposed = false;  ///< the file holds [cols, rows]
  int offset = 0;           ///< added to every integer: 2^(bits-1) where the file's are unsigned
  bool is_external = false;
  int64_t at = 0;  ///< its first byte in the file

  int64_t bytes() const { return ((transposed ? cols * rows : rows * stride) * bits + 7) / 8; }
};

/// Not thread-safe.
class OnnxFile {
 public:
  /// Writes `model`, whose graph has all but `tensors`, as model.onnx (with model.onnx.data) of `folder`, and calls
  /// `fill` to write them and read them back. The graph is taken apart. Errors of the disk, or of `fill`.
  static Status write(format::FolderWriter& folder, onnx::ModelProto& model, std::vector<OnnxTensor> tensors,
                      const std::function<Status(OnnxFile&)>& fill);

  const OnnxTensor& tensor(size_t index) const { return tensors_[index]; }
  int64_t bytes() const { return bytes_; }  ///< of both files
  bool is_external() const { return external_ != nullptr; }

  /// Rows [first, first + count) of a tensor: elements of 8 bits or fewer as int8_t, others as their bytes, row after
  /// row. The first row, and their number but at the end, fill whole bytes: multiples of 4.
  Status write_rows(size_t tensor, int64_t first, int64_t count, std::span<const std::byte> elements);
  Status read_rows(size_t tensor, int64_t first, int64_t count, std::span<std::byte> elements) const;

 private:
  explicit OnnxFile(format::FolderWriter& folder) : folder_(&folder) {}
  const format::FileDescriptor& file_of(const OnnxTensor& tensor) const;
  const std::filesystem::path& path_of(const OnnxTensor& tensor) const;

  format::FolderWriter* folder_;
  std::vector<OnnxTensor> tensors_;
  int64_t bytes_ = 0;
  const format::FileDescriptor* model_ = nullptr;
  const format::FileDescriptor* external_ = nullptr;
  std::filesystem::path model_path_, external_path_;
};

}  // namespace autoglm::exports
