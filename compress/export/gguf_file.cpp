#include "compress/export/gguf_file.h"

#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <type_traits>

namespace autoglm::exports {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint32_t kVersion = 3;
constexpr int64_t kAlignment = 32;

/// GGUF's numbers of value types.
enum class ValueType : uint32_t { kUint32 = 4, kInt32 = 5, kFloat32 = 6, kBool = 7, kString = 8, kArray = 9 };

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

class Bytes {
 public:
  template <typename T>
  void add(T value) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    data_.insert(data_.end(), bytes, bytes + sizeof value);
  }
  void add(const std::string& text) {
    add(static_cast<uint64_t>(text.size()));
    const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
    data_.insert(data_.end(), bytes, bytes + text.size());
  }
  void add(ValueType type) { add(static_cast<uint32_t>(type)); }
  template <typename T>
  void add_array(ValueType type, const std::vector<T>& values) {
    add(ValueType::kArray);
    add(type);
    add(static_cast<uint64_t>(values.size()));
    for (const T& value : values) add(value);
  }
  void pad() { data_.resize(static_cast<size_t>(aligned(size()))); }
  int64_t size() const { return static_cast<int64_t>(data_.size()); }
  std::span<const std::byte> span() const { return data_; }

 private:
  std::vector<std::byte> data_;
};

struct AddValue {
  Bytes& out;
  void operator()(uint32_t value) const { out.add(ValueType::kUint32), out.add(value); }
  void operator()(float value) const { out.add(ValueType::kFloat32), out.add(value); }
  void operator()(bool value) const { out.add(ValueType::kBool), out.add(static_cast<uint8_t>(value ? 1 : 0)); }
  void operator()(const std::string& value) const { out.add(ValueType::kString), out.add(value); }
  void operator()(const std::vector<std::string>& values) const { out.add_array(ValueType::kString, values); }
  void operator()(const std::vector<int32_t>& values) const { out.add_array(ValueType::kInt32, values); }
  void operator()(const std::vector<float>& values) const { out.add_array(ValueType::kFloat32, values); }
};

}  // namespace

Result<GgufFile> GgufFile::begin(format::StagedFile file, std::span<const GgufMetadata> metadata,
                                 std::vector<GgufTensor> tensors) {
  Bytes header;
  for (const char c : {'G', 'G', 'U', 'F'}) header.add(c);
  header.add(kVersion);
  header.add(static_cast<uint64_t>(tensors.size()));
  header.add(static_cast<uint64_t>(metadata.size()));
  for (const GgufMetadata& entry : metadata) {
    header.add(entry.key);
    std::visit(AddValue{header}, entry.value);
  }
  int64_t data = 0;
  for (GgufTensor& tensor : tensors) {
    header.add(tensor.name);
    header.add(static_cast<uint32_t>(tensor.shape.size()));
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size)
      header.add(static_cast<uint64_t>(*size));
    header.add(static_cast<uint32_t>(tensor.type));
    header.add(static_cast<uint64_t>(data));
    tensor.offset = data;
    data += aligned(tensor.bytes());
  }
  header.pad();
  for (GgufTensor& tensor : tensors) tensor.offset += header.size();

  GgufFile out(std::move(file));
  out.tensors_ = std::move(tensors);
  out.end_ = header.size() + data;
  AUTOGLM_RETURN_IF_ERROR(format::check_space(out.target().parent_path(), out.end_, out.target()));
  // The padding after each tensor is the hole that is left.
  if (::ftruncate(out.file_.fd().get(), out.end_) != 0) {
    return format::system_failure(out.target(), "cannot write", errno);
  }
  AUTOGLM_RETURN_IF_ERROR(format::write_all(out.file_.fd(), header.span(), out.target()));
  return out;
}

Status GgufFile::write(const GgufTensor& tensor, int64_t first_row, std::span<const std::byte> bytes) {
  return format::write_at(file_.fd(), tensor.offset + first_row * row_bytes(tensor.type, tensor.cols()), bytes,
                          target());
}

Status GgufFile::read(const GgufTensor& tensor, int64_t first_row, std::span<std::byte> bytes) const {
  return format::read_at(file_.fd(), tensor.offset + first_row * row_bytes(tensor.type, tensor.cols()), bytes,
                         target());
}

}  // namespace autoglm::exports
