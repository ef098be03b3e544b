#include "core/format/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

#include "core/format/display.h"
#include "core/format/mapped_file.h"

namespace autoglm::format {
namespace {

static_assert(std::endian::native == std::endian::little, "tensor bytes are used as they lie in the file");

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's bound
constexpr size_t kMaxDimensions = 64;              // torch's bound
constexpr std::string_view kMetadata = "__metadata__";

/// Receives the header's JSON event by event, so that duplicate names are seen and nothing is stored that the format
/// does not have. Offsets stay relative to the data buffer.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  SafetensorsHeader take_header() { return std::move(header_); }
  const std::string& error() const { return error_; }

  bool start_object(std::size_t) override {
    switch (state_) {
      case State::kStart: return go(State::kNames);
      case State::kEntry:
        tensor_ = {};
        seen_dtype_ = seen_shape_ = seen_offsets_ = false;
        return go(State::kFields);
      case State::kMetadataValue: return go(State::kMetadataKeys);
      default: return unexpected("an object");
    }
  }

  bool key(string_t& text) override {
    switch (state_) {
      case State::kNames:
        name_ = text;
        if (!names_.insert(text).second) return fail("name " + display(text) + " occurs twice");
        return go(text == kMetadata ? State::kMetadataValue : State::kEntry);
      case State::kFields:
        if (text == "dtype") return first(seen_dtype_, text) && go(State::kDType);
        if (text == "shape") return first(seen_shape_, text) && go(State::kShape);
        if (text == "data_offsets") return first(seen_offsets_, text) && go(State::kOffsets);
        return fail(where() + " has an unknown member " + display(text));
      case State::kMetadataKeys:
        key_ = text;
        if (header_.metadata.contains(text)) return fail("__metadata__ has " + display(text) + " twice");
        return go(State::kMetadataText);
      default: return unexpected("a member");
    }
  }

  bool end_object() override {
    switch (state_) {
      case State::kFields:
        if (!seen_dtype_ || !seen_shape_ || !seen_offsets_) {
          return fail(where() + " lacks " + (!seen_dtype_ ? "dtype" : !seen_shape_ ? "shape" : "data_offsets"));
        }
        if (numbers_.size() != 2) return fail(where() + " needs exactly two data_offsets");
        if (numbers_[1] < numbers_[0]) {
          return fail(fmt::format("{} ends at byte {} before it starts at byte {}", where(), numbers_[1], numbers_[0]));
        }
        tensor_.name = name_;
        tensor_.offset = numbers_[0];
        tensor_.nbytes = numbers_[1] - numbers_[0];
        header_.tensors.push_back(std::move(tensor_));
        return go(State::kNames);
      case State::kMetadataKeys: return go(State::kNames);
      case State::kNames: return go(State::kDone);
      default: return unexpected("the end of an object");
    }
  }

  bool start_array(std::size_t) override {
    if (state_ == State::kShape) return go(State::kShapeItems);
    if (state_ != State::kOffsets) return unexpected("an array");
    numbers_.clear();
    return go(State::kOffsetItems);
  }

  bool end_array() override {
    return state_ == State::kShapeItems || state_ == State::kOffsetItems ? go(State::kFields)
                                                                         : unexpected("the end of an array");
  }

  bool string(string_t& text) override {
    if (state_ == State::kMetadataText) {
      header_.metadata.emplace(key_, std::move(text));
      return go(State::kMetadataKeys);
    }
    if (state_ != State::kDType) return unexpected("a string");
    const std::optional<DType> dtype = dtype_from_string(text);
    if (!dtype) {
      const bool sub_byte = text.rfind("F4", 0) == 0 || text.rfind("F6", 0) == 0 || text == "I4" || text == "U4";
      return fail(where() +
                  (sub_byte ? " has elements of less than a byte, which this program does not read: dtype "
                            : " has unknown dtype ") +
                  display(text));
    }
    tensor_.dtype = *dtype;
    return go(State::kFields);
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (state_ != State::kShapeItems && state_ != State::kOffsetItems) return unexpected("a number");
    if (!std::in_range<int64_t>(value))
      return fail(fmt::format("{} has the number {}, which is too large", where(), value));
    auto& list = state_ == State::kShapeItems ? tensor_.shape : numbers_;
    if (list.size() == kMaxDimensions)
      return fail(fmt::format("{} has more than {} dimensions", where(), kMaxDimensions));
    list.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool number_integer(number_integer_t value) override {
    return unexpected(fmt::format("the negative number {}", value));
  }
  bool number_float(number_float_t, const string_t& text) override { return unexpected("the number " + display(text)); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool null() override {
    // The reference implementation takes a null __metadata__ as an absent one.
    return state_ == State::kMetadataValue ? go(State::kNames) : unexpected("null");
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return fail(fmt::format("the header is no valid JSON at its byte {}", position));
  }

 private:
  enum class State {
    kStart,
    kNames,
    kEntry,
    kFields,
    kDType,
    kShape,
    kShapeItems,
    kOffsets,
    kOffsetItems,
    kMetadataValue,
    kMetadataKeys,
    kMetadataText,
    kDone
  };

  bool go(State state) {
    state_ = state;
    return true;
  }
  bool fail(std::string message) {
    if (error_.empty()) error_ = std::move(message);
    return false;
  }
  bool first(bool& seen, const std::string& member) {
    if (seen) return fail(where() + " has " + member + " twice");
    return seen = true;
  }
  bool unexpected(std::string_view what) { return fail(fmt::format("{} has {} where none may be", where(), what)); }
  std::string where() const {
    switch (state_) {
      case State::kStart:
      case State::kNames:
      case State::kDone: return "the header";
      case State::kMetadataValue:
      case State::kMetadataKeys:
      case State::kMetadataText: return "__metadata__";
      default: return "tensor " + display(name_);
    }
  }

  State state_ = State::kStart;
  SafetensorsHeader header_;
  std::unordered_set<std::string> names_;
  std::string name_, key_, error_;
  TensorInfo tensor_;
  Shape numbers_;
  bool seen_dtype_ = false, seen_shape_ = false, seen_offsets_ = false;
};

/// Checks sizes and offsets of tensors sorted by offset against a data buffer of `buffer_size` bytes.
Status check_tensors(const std::vector<TensorInfo>& tensors, int64_t buffer_size) {
  int64_t end = 0;
  for (const TensorInfo& t : tensors) {
    const std::optional<int64_t> count = element_count(t.shape);
    int64_t expected = 0;
    if (!count || __builtin_mul_overflow(*count, size_of(t.dtype), &expected)) {
      return bad_input(
          fmt::format("the size of tensor {} with shape [{}] overflows", display(t.name), fmt::join(t.shape, ", ")));
    }
    if (t.nbytes != expected) {
      return bad_input(fmt::format("tensor {} has {} bytes, but {} [{}] needs {}", display(t.name), t.nbytes,
                                   to_string(t.dtype), fmt::join(t.shape, ", "), expected));
    }
    if (t.offset != end) {
      return bad_input(
          fmt::format("tensor {} starts at byte {} of the data, but the one before it ends at {}: tensors may "
                      "neither overlap nor leave holes",
                      display(t.name), t.offset, end));
    }
    if (t.nbytes > buffer_size - t.offset) {  // offset == end <= buffer_size, so nothing can overflow
      return bad_input(
          fmt::format("tensor {} ends at byte {} of the data, but the file holds {}: it is truncated or corrupt",
                      display(t.name), static_cast<uint64_t>(t.offset) + static_cast<uint64_t>(t.nbytes), buffer_size));
    }
    end = t.offset + t.nbytes;
  }
  if (end != buffer_size) return bad_input(fmt::format("{} bytes follow the last tensor", buffer_size - end));
  return ok_status();
}

}  // namespace

Result<SafetensorsHeader> parse_safetensors(std::span<const std::byte> file) {
  uint64_t header_size = 0;
  if (file.size() < sizeof header_size)
    return bad_input(fmt::format("{} bytes are too few for a safetensors file", file.size()));
  std::memcpy(&header_size, file.data(), sizeof header_size);
  if (header_size > kMaxHeaderBytes) {
    return bad_input(
        fmt::format("a header of {} bytes is over the format's bound of {}: not a safetensors file, or a corrupt one",
                    header_size, kMaxHeaderBytes));
  }
  if (header_size > file.size() - sizeof header_size) {
    return bad_input(fmt::format("the header has {} bytes, but the file only {}: it is truncated or corrupt",
                                 header_size, file.size()));
  }
  const auto* text = reinterpret_cast<const char*>(file.data()) + sizeof header_size;
  if (header_size == 0 || text[0] != '{')
    return bad_input("the header does not start with '{': not a safetensors file");
  // The JSON library takes a zero byte as the end of its input, what follows would go unseen.
  if (std::memchr(text, 0, header_size) != nullptr) return bad_input("the header contains a zero byte");

  SafetensorsHeader header;
  try {
    HeaderReader reader;
    if (!nlohmann::json::sax_parse(text, text + header_size, &reader)) return bad_input(reader.error());
    header = reader.take_header();
  } catch (const std::exception& e) {  // out of memory
    return resource_exhausted(fmt::format("cannot parse a header of {} bytes: {}", header_size, e.what()));
  }
  std::sort(header.tensors.begin(), header.tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.offset, a.nbytes, a.name) < std::tie(b.offset, b.nbytes, b.name);
  });
  const auto data_start = static_cast<int64_t>(sizeof header_size + header_size);
  AUTOGLM_RETURN_IF_ERROR(check_tensors(header.tensors, static_cast<int64_t>(file.size()) - data_start));
  for (TensorInfo& tensor : header.tensors) tensor.offset += data_start;
  return header;
}

struct SafetensorsFile::Impl {
  std::filesystem::path path;
  MappedFile file;
  SafetensorsHeader header;
  std::unordered_map<std::string_view, const TensorInfo*> index;
};

SafetensorsFile::SafetensorsFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;
SafetensorsFile::~SafetensorsFile() = default;

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  AUTOGLM_ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(path));
  Result<SafetensorsHeader> header = parse_safetensors(file.bytes());
  if (!header.ok()) return header.status().with_context(display_path(path));
  auto impl = std::make_unique<Impl>(Impl{path, std::move(file), std::move(*header), {}});
  impl->index.reserve(impl->header.tensors.size());
  for (const TensorInfo& tensor : impl->header.tensors) impl->index.emplace(tensor.name, &tensor);
  return SafetensorsFile(std::move(impl));
}

const std::filesystem::path& SafetensorsFile::path() const { return impl_->path; }
const std::vector<TensorInfo>& SafetensorsFile::tensors() const { return impl_->header.tensors; }
const std::map<std::string, std::string>& SafetensorsFile::metadata() const { return impl_->header.metadata; }

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto found = impl_->index.find(name);
  return found == impl_->index.end() ? nullptr : found->second;
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorInfo& tensor) const {
  return impl_->file.bytes().subspan(static_cast<size_t>(tensor.offset), static_cast<size_t>(tensor.nbytes));
}

void SafetensorsFile::release(const TensorInfo& tensor) const { impl_->file.release(tensor.offset, tensor.nbytes); }
void SafetensorsFile::read_ahead(const TensorInfo& tensor, int64_t first, int64_t count) const {
  impl_->file.read_ahead(tensor.offset + first, count);
}
void SafetensorsFile::keep() const { impl_->file.keep(); }

}  // namespace autoglm::format
