#include "compress/export/gguf_reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "core/format/display.h"

namespace autoglm::exports {
namespace {

constexpr uint32_t kMaxDimensions = 4;  // of ggml
constexpr uint64_t kMaxName = 1 << 16, kMaxText = 64 << 20;
constexpr int64_t kMaxAlignment = 1 << 20;

/// GGUF's numbers of value types.
enum class Kind : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };

/// Takes values off the front of the file; the first that is not there, or cannot be, is the error of all.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> file) : file_(file) {}

  const Status& status() const { return status_; }
  size_t left() const { return file_.size() - at_; }
  size_t at() const { return at_; }
  void fail(std::string message) {
    if (status_.ok()) status_ = bad_input(std::move(message));
  }

  template <typename T>
  T take() {
    T value{};
    if (!status_.ok()) return value;
    if (left() < sizeof value) {
      fail(fmt::format("the header ends at byte {} of {}: it is truncated or corrupt", at_, file_.size()));
      return value;
    }
    std::memcpy(&value, file_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }

  std::string text(uint64_t most) {
    const auto size = take<uint64_t>();
    if (status_.ok() && (size > most || size > left())) {
      fail(fmt::format("a text of {} bytes at byte {} is longer than the file or than can be", size, at_));
    }
    if (!status_.ok()) return {};
    std::string out(reinterpret_cast<const char*>(file_.data()) + at_, static_cast<size_t>(size));
    at_ += static_cast<size_t>(size);
    return out;
  }

  /// A number of things of at least `each` bytes that follow.
  uint64_t count(std::string_view of, size_t each) {
    const auto value = take<uint64_t>();
    if (status_.ok() && value > left() / each) {
      fail(fmt::format("{} {} do not fit into the {} bytes that follow: truncated or corrupt", value, of, left()));
    }
    return status_.ok() ? value : 0;
  }

 private:
  std::span<const std::byte> file_;
  size_t at_ = 0;
  Status status_;
};

bool is_real(Kind kind) { return kind == Kind::kF32 || kind == Kind::kF64; }

double take_real(Cursor& in, Kind kind) { return kind == Kind::kF32 ? in.take<float>() : in.take<double>(); }

int64_t take_whole(Cursor& in, Kind kind) {
  switch (kind) {
    case Kind::kU8:
    case Kind::kBool: return in.take<uint8_t>();
    case Kind::kI8: return in.take<int8_t>();
    case Kind::kU16: return in.take<uint16_t>();
    case Kind::kI16: return in.take<int16_t>();
    case Kind::kU32: return in.take<uint32_t>();
    case Kind::kI32: return in.take<int32_t>();
    case Kind::kI64: return in.take<int64_t>();
    case Kind::kU64: {
      const auto value = in.take<uint64_t>();
      if (!std::in_range<int64_t>(value)) in.fail(fmt::format("the number {} is too large", value));
      return static_cast<int64_t>(value);
    }
    default: in.fail(fmt::format("the type of value {} is unknown", static_cast<uint32_t>(kind))); return 0;
  }
}

size_t least_bytes(Kind kind) {
  switch (kind) {
    case Kind::kU8:
    case Kind::kI8:
    case Kind::kBool: return 1;
    case Kind::kU16:
    case Kind::kI16: return 2;
    case Kind::kU32:
    case Kind::kI32:
    case Kind::kF32: return 4;
    default: return 8;
  }
}

template <typename T, typename Take>
std::vector<T> take_all(Cursor& in, uint64_t count, const Take& take) {
  std::vector<T> values;
  for (uint64_t i = 0; i < count && in.status().ok(); ++i) values.push_back(take());
  return values;
}

GgufHeader::Value take_array(Cursor& in) {
  const auto kind = static_cast<Kind>(in.take<uint32_t>());
  const uint64_t count = in.count("values of an array", least_bytes(kind));
  if (kind == Kind::kArray) in.fail("it has arrays in an array");
  if (kind == Kind::kString) return take_all<std::string>(in, count, [&] { return in.text(kMaxText); });
  if (is_real(kind)) return take_all<double>(in, count, [&] { return take_real(in, kind); });
  return take_all<int64_t>(in, count, [&] { return take_whole(in, kind); });
}

GgufHeader::Value take_value(Cursor& in) {
  const auto kind = static_cast<Kind>(in.take<uint32_t>());
  if (kind == Kind::kArray) return take_array(in);
  if (kind == Kind::kString) return in.text(kMaxText);
  if (kind == Kind::kBool) return in.take<uint8_t>() != 0;
  if (is_real(kind)) return take_real(in, kind);
  return take_whole(in, kind);
}

Result<GgmlType> known_type(uint32_t number) {
  switch (const auto type = static_cast<GgmlType>(number)) {
    case GgmlType::kF32:
    case GgmlType::kF16:
    case GgmlType::kQ4_0:
    case GgmlType::kQ4_1:
    case GgmlType::kQ5_0:
    case GgmlType::kQ5_1:
    case GgmlType::kQ8_0:
    case GgmlType::kQ2_K:
    case GgmlType::kQ3_K:
    case GgmlType::kQ4_K:
    case GgmlType::kQ5_K:
    case GgmlType::kQ6_K:
    case GgmlType::kBF16: return type;
  }
  return bad_input(fmt::format(
      "is of ggml's type {}, which is not read; F32, F16, BF16, Q4_0 to Q8_0 and Q2_K to Q6_K are", number));
}

/// One entry of the list of tensors; its offset is relative to the data.
Result<GgufTensor> take_tensor(Cursor& in) {
  GgufTensor tensor{.name = in.text(kMaxName)};
  const auto dimensions = in.take<uint32_t>();
  if (in.status().ok() && (dimensions < 1 || dimensions > kMaxDimensions)) {
    in.fail(fmt::format("tensor {} has {} dimensions", format::display(tensor.name), dimensions));
  }
  for (uint32_t i = 0; i < dimensions && in.status().ok(); ++i) {
    const auto size = in.take<uint64_t>();
    if (size < 1 || !std::in_range<int64_t>(size))
      in.fail(fmt::format("tensor {} has the size {}", format::display(tensor.name), size));
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
  }
  const auto type = in.take<uint32_t>();
  const auto offset = in.take<uint64_t>();
  AUTOGLM_RETURN_IF_ERROR(in.status());
  const auto known = known_type(type);
  if (!known.ok())
    return bad_input(fmt::format("tensor {} {}", format::display(tensor.name), known.status().message()));
  tensor.type = *known;
  const auto count = format::element_count(tensor.shape);
  // No type has more than 4 bytes for a value.
  if (!count || *count > INT64_MAX / 8 || tensor.cols() % block_values(tensor.type) != 0 ||
      !std::in_range<int64_t>(offset)) {
    return bad_input(fmt::format("tensor {} of shape [{}] at {} cannot be of type {}", format::display(tensor.name),
                                 fmt::join(tensor.shape, ", "), offset, to_string(tensor.type)));
  }
  tensor.offset = static_cast<int64_t>(offset);
  return tensor;
}

Result<int64_t> alignment_of(const GgufHeader& header) {
  const auto found = header.metadata.find("general.alignment");
  if (found == header.metadata.end()) return 32;
  const auto* value = std::get_if<int64_t>(&found->second);
  if (value != nullptr && *value >= 1 && *value <= kMaxAlignment && (*value & (*value - 1)) == 0) return *value;
  return bad_input("general.alignment is no power of two");
}

/// Every tensor lies in the file, aligned, over no other.
Status check_places(std::vector<GgufTensor>& tensors, int64_t data, int64_t size, int64_t alignment) {
  std::vector<const GgufTensor*> sorted;
  for (GgufTensor& tensor : tensors) {
    if (data > size || tensor.offset % alignment != 0 || tensor.offset > size - data ||
        tensor.bytes() > size - data - tensor.offset) {
      return bad_input(
          fmt::format("tensor {} of {} bytes at {} of the data is not in the file, which has {}: truncated or corrupt",
                      format::display(tensor.name), tensor.bytes(), tensor.offset, size));
    }
    tensor.offset += data;
    sorted.push_back(&tensor);
  }
  std::sort(sorted.begin(), sorted.end(), [](const auto* a, const auto* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i]->offset >= sorted[i - 1]->offset + sorted[i - 1]->bytes()) continue;
    return bad_input(
        fmt::format("tensor {} lies over {}", format::display(sorted[i]->name), format::display(sorted[i - 1]->name)));
  }
  return ok_status();
}

Result<GgufHeader> parse(std::span<const std::byte> file) {
  Cursor in(file);
  if (in.take<uint32_t>() != 0x46554747) return bad_input("is no GGUF file");  // "GGUF"
  const auto version = in.take<uint32_t>();
  AUTOGLM_RETURN_IF_ERROR(in.status());
  if (version != 2 && version != 3) {
    return bad_input(fmt::format("is GGUF of version {}; 2 and 3 are read, in little-endian order", version));
  }
  const uint64_t tensors = in.count("tensors", 24), keys = in.count("metadata", 13);
  GgufHeader header;
  for (uint64_t i = 0; i < keys && in.status().ok(); ++i) {
    std::string key = in.text(kMaxName);
    GgufHeader::Value value = take_value(in);
    if (!in.status().ok()) return in.status().with_context("metadata " + format::display(key));
    if (!header.metadata.emplace(key, std::move(value)).second) {
      return bad_input(fmt::format("metadata {} occurs twice", format::display(key)));
    }
  }
  std::set<std::string> names;
  for (uint64_t i = 0; i < tensors && in.status().ok(); ++i) {
    AUTOGLM_ASSIGN_OR_RETURN(GgufTensor tensor, take_tensor(in));
    if (!names.insert(tensor.name).second)
      return bad_input(fmt::format("tensor {} occurs twice", format::display(tensor.name)));
    header.tensors.push_back(std::move(tensor));
  }
  AUTOGLM_RETURN_IF_ERROR(in.status());
  AUTOGLM_ASSIGN_OR_RETURN(const int64_t alignment, alignment_of(header));
  const int64_t data = (static_cast<int64_t>(in.at()) + alignment - 1) / alignment * alignment;
  AUTOGLM_RETURN_IF_ERROR(check_places(header.tensors, data, static_cast<int64_t>(file.size()), alignment));
  return header;
}

}  // namespace

Result<GgufHeader> parse_gguf(std::span<const std::byte> file) {
  try {
    return parse(file);
  } catch (const std::bad_alloc&) {
    return resource_exhausted("no memory for the header of a GGUF file");
  }
}

GgufReader::GgufReader(std::filesystem::path path, format::MappedFile file, GgufHeader header)
    : path_(std::move(path)), file_(std::move(file)), header_(std::move(header)) {
  for (size_t i = 0; i < header_.tensors.size(); ++i) index_.emplace(header_.tensors[i].name, i);
}

Result<GgufReader> GgufReader::open(const std::filesystem::path& path) {
  AUTOGLM_ASSIGN_OR_RETURN(format::MappedFile file, format::MappedFile::open(path));
  auto header = parse_gguf(file.bytes());
  if (!header.ok()) return header.status().with_context(format::display_path(path));
  return GgufReader(path, std::move(file), std::move(*header));
}

const GgufTensor* GgufReader::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &header_.tensors[found->second];
}

Status GgufReader::wrong_kind(std::string_view key) const {
  return bad_input(fmt::format("{}: metadata {} is of another kind than it should be", format::display_path(path_),
                               format::display(key)));
}

Status GgufReader::missing(std::string_view key) const {
  return bad_input(fmt::format("{}: metadata {} is missing", format::display_path(path_), key));
}

Status GgufReader::refuse(std::string_view what) const {
  return bad_input(fmt::format("{}: {} is not read from GGUF; start from the Hugging Face folder",
                               format::display_path(path_), what));
}

void GgufReader::read(const GgufTensor& tensor, int64_t first, int64_t count, std::span<float> out) const {
  const int64_t width = row_bytes(tensor.type, tensor.cols()), from = tensor.offset + first * width;
  decode(tensor.type, file_.bytes().subspan(static_cast<size_t>(from), static_cast<size_t>(count * width)), out);
  file_.release(from, count * width);
}

}  // namespace autoglm::exports
