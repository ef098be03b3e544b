#include "compress/export/onnx_file.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <onnx.pb.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <type_traits>
#include <utility>

#include "core/base/parallel.h"

namespace autoglm::exports {
namespace {

constexpr int64_t kMostInline = int64_t{1} << 30;
constexpr int64_t kAlignment = 4096;  // of external data, so that readers can map it
constexpr const char* kModelName = "model.onnx";
constexpr const char* kExternalName = "model.onnx.data";

/// Tag and length of a length-delimited field.
std::string field_header(int number, int64_t length) {
  std::string out;
  google::protobuf::io::StringOutputStream stream(&out);
  google::protobuf::io::CodedOutputStream coded(&stream);
  constexpr int kLengthDelimited = 2;
  coded.WriteTag(static_cast<uint32_t>(number << 3 | kLengthDelimited));
  coded.WriteVarint64(static_cast<uint64_t>(length));
  coded.Trim();
  return out;
}

onnx::TensorProto describe(const OnnxTensor& tensor) {
  onnx::TensorProto out;
  out.set_name(tensor.name);
  out.set_data_type(tensor.type);
  for (const int64_t size : tensor.shape) out.add_dims(size);
  if (tensor.is_external) {
    out.set_data_location(onnx::TensorProto::EXTERNAL);
    const auto put = [&](const char* key, std::string value) {
      auto& entry = *out.add_external_data();
      entry.set_key(key);
      entry.set_value(std::move(value));
    };
    put("location", kExternalName);
    put("offset", std::to_string(tensor.at));
    put("length", std::to_string(tensor.bytes()));
  }
  return out;
}

/// Everything of the file but the tensors' bytes: pieces, and how many bytes are left open after each.
struct Skeleton {
  std::vector<std::pair<std::string, int64_t>> pieces;
  int64_t bytes = 0;

  void add(std::string piece, int64_t open = 0) {
    bytes += static_cast<int64_t>(piece.size()) + open;
    pieces.emplace_back(std::move(piece), open);
  }
};

/// Sets `at` of the tensors.
Skeleton skeleton_of(onnx::ModelProto& model, std::vector<OnnxTensor>& tensors) {
  std::string graph = model.graph().SerializeAsString();
  model.clear_graph();
  std::vector<std::string> heads;  // of each tensor, up to its bytes
  auto length = static_cast<int64_t>(graph.size());
  for (const OnnxTensor& tensor : tensors) {
    std::string body = describe(tensor).SerializeAsString();
    const int64_t data = tensor.is_external ? 0 : tensor.bytes();
    if (!tensor.is_external) body += field_header(onnx::TensorProto::kRawDataFieldNumber, data);
    const int64_t whole = static_cast<int64_t>(body.size()) + data;
    heads.push_back(field_header(onnx::GraphProto::kInitializerFieldNumber, whole) + body);
    length += static_cast<int64_t>(heads.back().size()) + data;
  }
  Skeleton out;
  out.add(model.SerializeAsString() + field_header(onnx::ModelProto::kGraphFieldNumber, length));
  out.add(std::move(graph));
  for (size_t i = 0; i < tensors.size(); ++i) {
    const int64_t data = tensors[i].is_external ? 0 : tensors[i].bytes();
    out.add(std::move(heads[i]), data);
    if (!tensors[i].is_external) tensors[i].at = out.bytes - data;
  }
  return out;
}

/// Puts tensors that are to lie outside behind one another; returns the bytes that they take.
int64_t place_external(std::vector<OnnxTensor>& tensors) {
  int64_t total = 0;
  for (const OnnxTensor& tensor : tensors) total += tensor.bytes();
  if (total <= kMostInline) return 0;
  int64_t end = 0;
  for (OnnxTensor& tensor : tensors) {
    tensor.is_external = true;
    tensor.at = (end + kAlignment - 1) / kAlignment * kAlignment;
    end = tensor.at + tensor.bytes();
  }
  return end;
}

/// values[n] of bits, the lowest bits first, with the tensor's offset added; the rest of the last byte is 0.
template <int bits>
void pack_bits(std::span<const std::byte> values, int offset, std::span<std::byte> out) {
  constexpr size_t kPerByte = 8 / bits;
  constexpr int kMask = (1 << bits) - 1;
  for (size_t i = 0; i < out.size(); ++i) {
    const auto some = values.subspan(i * kPerByte, std::min(kPerByte, values.size() - i * kPerByte));
    int byte = 0;
    for (size_t j = 0; j < some.size(); ++j) {
      byte |= ((static_cast<int8_t>(some[j]) + offset) & kMask) << (static_cast<int>(j) * bits);
    }
    out[i] = static_cast<std::byte>(byte);
  }
}

template <int bits>
void unpack_bits(std::span<const std::byte> bytes, int offset, std::span<std::byte> out) {
  constexpr size_t kPerByte = 8 / bits;
  constexpr int kMask = (1 << bits) - 1, kHalf = 1 << (bits - 1);
  for (size_t i = 0; i < out.size(); ++i) {
    int value = (static_cast<int>(bytes[i / kPerByte]) >> (static_cast<int>(i % kPerByte) * bits)) & kMask;
    value = offset != 0 ? value - offset : value - (value >= kHalf ? kMask + 1 : 0);
    out[i] = static_cast<std::byte>(value);
  }
}

void pack(std::span<const std::byte> values, const OnnxTensor& tensor, std::span<std::byte> out) {
  switch (tensor.bits) {
    case 2: return pack_bits<2>(values, tensor.offset, out);
    case 4: return pack_bits<4>(values, tensor.offset, out);
    default: return pack_bits<8>(values, tensor.offset, out);
  }
}

void unpack(std::span<const std::byte> bytes, const OnnxTensor& tensor, std::span<std::byte> out) {
  switch (tensor.bits) {
    case 2: return unpack_bits<2>(bytes, tensor.offset, out);
    case 4: return unpack_bits<4>(bytes, tensor.offset, out);
    default: return unpack_bits<8>(bytes, tensor.offset, out);
  }
}

/// Between a matrix [rows, cols] of elements of `size` bytes, from one of its columns on, and `lines` of those columns,
/// which begin `pitch` elements apart: writes the lines, or the matrix from them.
template <size_t size, bool to_lines>
void turn(std::conditional_t<to_lines, const std::byte, std::byte>* matrix, size_t rows, size_t cols,
          std::conditional_t<to_lines, std::byte, const std::byte>* lines, size_t count, size_t pitch) {
  for (size_t row = 0; row < rows; ++row) {
    for (size_t line = 0; line < count; ++line) {
      auto* in_matrix = matrix + (row * cols + line) * size;
      auto* in_line = lines + (line * pitch + row) * size;
      if constexpr (to_lines) {
        std::memcpy(in_line, in_matrix, size);
      } else {
        std::memcpy(in_matrix, in_line, size);
      }
    }
  }
}

template <bool to_lines, typename Matrix, typename Line>
void turn(size_t size, Matrix* matrix, size_t rows, size_t cols, Line* lines, size_t count, size_t pitch) {
  switch (size) {
    case 1: return turn<1, to_lines>(matrix, rows, cols, lines, count, pitch);
    case 2: return turn<2, to_lines>(matrix, rows, cols, lines, count, pitch);
    case 4: return turn<4, to_lines>(matrix, rows, cols, lines, count, pitch);
    default: return turn<8, to_lines>(matrix, rows, cols, lines, count, pitch);
  }
}

/// Whether the file's bytes differ from the elements': packed, or moved by an offset.
bool is_packed(const OnnxTensor& tensor) { return tensor.bits < 8 || tensor.offset != 0; }

/// A piece of `count` rows of a tensor as lines of the file: its rows, or its columns where it is transposed.
struct Lines {
  const OnnxTensor& tensor;
  int64_t first, count;

  int64_t number() const { return tensor.transposed ? tensor.cols : count; }
  int64_t length() const { return tensor.transposed ? count : tensor.cols; }  ///< elements
  size_t element_bytes() const { return static_cast<size_t>(std::max(tensor.bits, 8)) / 8; }

  /// Elements between the beginnings of lines in memory. Columns that are turned lie further apart than they are long:
  /// were that a power of two, all of them would share a few places of the cache.
  int64_t pitch() const { return length() + (tensor.transposed ? 64 : 0); }
  size_t offset(int64_t line) const { return static_cast<size_t>(line * pitch()) * element_bytes(); }

  /// Between a piece of the matrix and `some` of its lines, from `line` on, where it is transposed.
  template <bool to_lines, typename Matrix, typename Line>
  void turn_some(Matrix* elements, int64_t line, int64_t some, Line* turned) const {
    turn<to_lines>(element_bytes(), elements + static_cast<size_t>(line) * element_bytes(), static_cast<size_t>(count),
                   static_cast<size_t>(tensor.cols), turned, static_cast<size_t>(some), static_cast<size_t>(pitch()));
  }

  /// Calls `work(line, some)` for some lines at a time, on several threads.
  template <typename Work>
  Status for_each_batch(const Work& work) const {
    constexpr int64_t kLines = 32, kElements = 1 << 16;  // as many lines fill whole bytes
    const int64_t batch = kLines * std::max<int64_t>(1, kElements / kLines / std::max<int64_t>(1, length()));
    return try_parallel_for((number() + batch - 1) / batch, [&](int64_t begin, int64_t end) -> Status {
      for (int64_t line = begin * batch; line < std::min(end * batch, number()); line += batch) {
        AUTOGLM_RETURN_IF_ERROR(work(line, std::min(batch, number() - line)));
      }
      return ok_status();
    });
  }

  /// Calls `run(elements, at, bytes)` for what is one piece of the file of the lines that `batch` holds: those
  /// elements, the first byte there and how many there are.
  template <typename Byte, typename Run>
  Status for_each_run(std::span<Byte> batch, int64_t line, int64_t some, const Run& run) const {
    const int64_t step = !tensor.transposed && tensor.stride == tensor.cols ? some : 1;
    for (int64_t i = 0; i < some; i += step) {
      const size_t elements = static_cast<size_t>(step * length());
      const int64_t begins = tensor.transposed ? (line + i) * tensor.rows + first : (first + line + i) * tensor.stride;
      AUTOGLM_RETURN_IF_ERROR(run(batch.subspan(offset(i), elements * element_bytes()),
                                  tensor.at + begins * tensor.bits / 8,
                                  (elements * static_cast<size_t>(tensor.bits) + 7) / 8));
    }
    return ok_status();
  }
};

}  // namespace

const format::FileDescriptor& OnnxFile::file_of(const OnnxTensor& tensor) const {
  return tensor.is_external ? *external_ : *model_;
}

const std::filesystem::path& OnnxFile::path_of(const OnnxTensor& tensor) const {
  return tensor.is_external ? external_path_ : model_path_;
}

Status OnnxFile::write(format::FolderWriter& folder, onnx::ModelProto& model, std::vector<OnnxTensor> tensors,
                       const std::function<Status(OnnxFile&)>& fill) {
  const int64_t external = place_external(tensors);
  const Skeleton skeleton = skeleton_of(model, tensors);
  OnnxFile file(folder);
  file.tensors_ = std::move(tensors);
  file.bytes_ = skeleton.bytes + external;
  AUTOGLM_RETURN_IF_ERROR(format::check_space(folder.staging(), file.bytes_, folder.target()));
  const auto write_model = [&](const format::FileDescriptor& fd, const std::filesystem::path& shown) -> Status {
    file.model_ = &fd;
    file.model_path_ = shown;
    if (::ftruncate(fd.get(), skeleton.bytes) != 0) return format::system_failure(shown, "cannot write", errno);
    int64_t at = 0;
    for (const auto& [piece, open] : skeleton.pieces) {
      AUTOGLM_RETURN_IF_ERROR(format::write_at(fd, at, std::as_bytes(std::span(piece)), shown));
      at += static_cast<int64_t>(piece.size()) + open;
    }
    return fill(file);
  };
  if (external == 0) return folder.with_file(kModelName, file.bytes_, write_model);
  return folder.with_file(kExternalName, external,
                          [&](const format::FileDescriptor& fd, const std::filesystem::path& shown) -> Status {
                            file.external_ = &fd;
                            file.external_path_ = shown;
                            if (::ftruncate(fd.get(), external) != 0)
                              return format::system_failure(shown, "cannot write", errno);
                            return folder.with_file(kModelName, skeleton.bytes, write_model);
                          });
}

Status OnnxFile::write_rows(size_t index, int64_t first, int64_t count, std::span<const std::byte> elements) {
  const OnnxTensor& tensor = tensors_[index];
  const Lines lines{tensor, first, count};
  folder_->count(static_cast<int64_t>(elements.size()) * tensor.bits / std::max(tensor.bits, 8));
  return lines.for_each_batch([&](int64_t line, int64_t some) -> Status {
    std::vector<std::byte> turned(tensor.transposed ? lines.offset(some) : 0), packed;
    if (tensor.transposed) lines.turn_some<true>(elements.data(), line, some, turned.data());
    const auto batch = tensor.transposed ? std::span<const std::byte>(turned)
                                         : elements.subspan(lines.offset(line), lines.offset(some));
    return lines.for_each_run(batch, line, some, [&](std::span<const std::byte> run, int64_t at, size_t bytes) {
      if (is_packed(tensor)) {
        packed.resize(bytes);
        pack(run, tensor, packed);
        run = packed;
      }
      return format::write_at(file_of(tensor), at, run, path_of(tensor));
    });
  });
}

Status OnnxFile::read_rows(size_t index, int64_t first, int64_t count, std::span<std::byte> elements) const {
  const OnnxTensor& tensor = tensors_[index];
  const Lines lines{tensor, first, count};
  return lines.for_each_batch([&](int64_t line, int64_t some) -> Status {
    std::vector<std::byte> turned(tensor.transposed ? lines.offset(some) : 0), packed;
    const std::span<std::byte> batch =
        tensor.transposed ? std::span(turned) : elements.subspan(lines.offset(line), lines.offset(some));
    AUTOGLM_RETURN_IF_ERROR(
        lines.for_each_run(batch, line, some, [&](std::span<std::byte> run, int64_t at, size_t bytes) -> Status {
          if (!is_packed(tensor)) return format::read_at(file_of(tensor), at, run, path_of(tensor));
          packed.resize(bytes);
          AUTOGLM_RETURN_IF_ERROR(format::read_at(file_of(tensor), at, packed, path_of(tensor)));
          unpack(packed, tensor, run);
          return ok_status();
        }));
    if (tensor.transposed) lines.turn_some<false>(elements.data(), line, some, turned.data());
    return ok_status();
  });
}

}  // namespace autoglm::exports
