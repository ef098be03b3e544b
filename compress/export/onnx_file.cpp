#include "compress/export/onnx_file.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <onnx.pb.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

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

/// [rows, cols] elements of `size` bytes into [cols, rows], in tiles whose lines stay in the cache.
template <size_t size>
void transpose(const std::byte* in, size_t rows, size_t cols, std::byte* out) {
  constexpr size_t kTile = 32;
  for (size_t top = 0; top < rows; top += kTile) {
    const size_t bottom = std::min(top + kTile, rows);
    for (size_t left = 0; left < cols; left += kTile) {
      const size_t right = std::min(left + kTile, cols);
      for (size_t col = left; col < right; ++col) {
        for (size_t row = top; row < bottom; ++row) {
          std::memcpy(out + (col * rows + row) * size, in + (row * cols + col) * size, size);
        }
      }
    }
  }
}

void transpose(size_t size, const std::byte* in, int64_t rows, int64_t cols, std::byte* out) {
  const auto r = static_cast<size_t>(rows), c = static_cast<size_t>(cols);
  switch (size) {
    case 1: return transpose<1>(in, r, c, out);
    case 2: return transpose<2>(in, r, c, out);
    case 4: return transpose<4>(in, r, c, out);
    default: return transpose<8>(in, r, c, out);
  }
}

/// Whether the file's bytes differ from the elements': packed, or moved by an offset.
bool is_packed(const OnnxTensor& tensor) { return tensor.bits < 8 || tensor.offset != 0; }

size_t element_bytes(const OnnxTensor& tensor) { return static_cast<size_t>(std::max(tensor.bits, 8)) / 8; }

/// Calls `run(at, i, length)` for every run of elements that is one piece of the file: its first byte there, the index
/// of its first element in a piece of `count` rows, in the order of the file, and their number.
template <typename Run>
Status for_each_run(const OnnxTensor& tensor, int64_t first, int64_t count, const Run& run) {
  if (tensor.transposed) {
    for (int64_t col = 0; col < tensor.cols; ++col) {
      AUTOGLM_RETURN_IF_ERROR(run(tensor.at + (col * tensor.rows + first) * tensor.bits / 8, col * count, count));
    }
    return ok_status();
  }
  if (tensor.stride == tensor.cols) {
    return run(tensor.at + first * tensor.stride * tensor.bits / 8, 0, count * tensor.cols);
  }
  for (int64_t row = 0; row < count; ++row) {
    AUTOGLM_RETURN_IF_ERROR(
        run(tensor.at + (first + row) * tensor.stride * tensor.bits / 8, row * tensor.cols, tensor.cols));
  }
  return ok_status();
}

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
  const size_t size = element_bytes(tensor);
  std::vector<std::byte> turned, packed;
  if (tensor.transposed) {
    turned.resize(elements.size());
    transpose(size, elements.data(), count, tensor.cols, turned.data());
    elements = turned;
  }
  folder_->count(static_cast<int64_t>(elements.size()) * tensor.bits / std::max(tensor.bits, 8));
  return for_each_run(tensor, first, count, [&](int64_t at, int64_t from, int64_t length) -> Status {
    std::span<const std::byte> run =
        elements.subspan(static_cast<size_t>(from) * size, static_cast<size_t>(length) * size);
    if (is_packed(tensor)) {
      packed.resize((static_cast<size_t>(length * tensor.bits) + 7) / 8);
      pack(run, tensor, packed);
      run = packed;
    }
    return format::write_at(file_of(tensor), at, run, path_of(tensor));
  });
}

Status OnnxFile::read_rows(size_t index, int64_t first, int64_t count, std::span<std::byte> elements) const {
  const OnnxTensor& tensor = tensors_[index];
  const size_t size = element_bytes(tensor);
  std::vector<std::byte> turned(tensor.transposed ? elements.size() : 0), packed;
  const std::span<std::byte> found = tensor.transposed ? std::span(turned) : elements;
  AUTOGLM_RETURN_IF_ERROR(for_each_run(tensor, first, count, [&](int64_t at, int64_t from, int64_t length) -> Status {
    const auto run = found.subspan(static_cast<size_t>(from) * size, static_cast<size_t>(length) * size);
    if (!is_packed(tensor)) return format::read_at(file_of(tensor), at, run, path_of(tensor));
    packed.resize((static_cast<size_t>(length * tensor.bits) + 7) / 8);
    AUTOGLM_RETURN_IF_ERROR(format::read_at(file_of(tensor), at, packed, path_of(tensor)));
    unpack(packed, tensor, run);
    return ok_status();
  }));
  if (tensor.transposed) transpose(size, turned.data(), tensor.cols, count, elements.data());
  return ok_status();
}

}  // namespace autoglm::exports
