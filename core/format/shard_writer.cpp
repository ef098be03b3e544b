#include "core/format/shard_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

namespace autoglm::format {
namespace {

constexpr int64_t kAlignment = 8;         // of every tensor written at once
constexpr int64_t kStartAlignment = 64;   // of the data's start, so of tensors whose predecessors are multiples of it
constexpr int64_t kLengthBytes = 8;       // the header's length, before it
constexpr int64_t kHeldBytes = 64 << 20;  // a tensor up to this may be held in memory
constexpr std::string_view kStart = R"({"__metadata__":{"format":"pt"})";  // transformers insists on the format
constexpr int64_t kFrameBytes = kStart.size() + 1;                         // and the closing brace

std::string entry(const TensorInfo& tensor) {
  return fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", nlohmann::json(tensor.name).dump(),
                     to_string(tensor.dtype), fmt::join(tensor.shape, ","), tensor.offset,
                     tensor.offset + tensor.nbytes);
}

/// At least as long as `entry` can be, whatever the offsets.
int64_t entry_bound(std::string_view name, const Shape& shape) {
  const TensorInfo longest{
      .name = std::string(name), .dtype = DType::kF8E4M3, .shape = shape, .offset = INT64_MAX, .nbytes = 0};
  return static_cast<int64_t>(entry(longest).size());
}

template <typename Visit>
Status for_each_piece(const ShardWriter::Source& source, const Visit& visit) {
  while (true) {
    AUTOGLM_ASSIGN_OR_RETURN(const std::span<const std::byte> piece, source());
    if (piece.empty()) return ok_status();
    AUTOGLM_RETURN_IF_ERROR(visit(piece));
  }
}

int64_t round_up(int64_t value) { return (value + kStartAlignment - 1) / kStartAlignment * kStartAlignment; }

}  // namespace

Result<ShardWriter> ShardWriter::create(const std::filesystem::path& path, const std::filesystem::path& shown,
                                        int64_t reserved) {
  ShardWriter shard;
  shard.shown_ = shown;
  shard.reserved_ = reserved;
  shard.fd_ = FileDescriptor(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!shard.fd_.valid()) return system_failure(shown, "cannot create", errno);
  if (::lseek(shard.fd_.get(), reserved, SEEK_SET) < 0) return system_failure(shown, "cannot seek", errno);
  return shard;
}

int64_t ShardWriter::least_reserved(std::string_view name, const Shape& shape) {
  return round_up(kLengthBytes + kFrameBytes + entry_bound(name, shape));
}

bool ShardWriter::needs_own_shard(int64_t nbytes) { return nbytes % kAlignment != 0 && nbytes > kHeldBytes; }

bool ShardWriter::has_room(std::string_view name, const Shape& shape) const {
  return kLengthBytes + kFrameBytes + entries_bound_ + entry_bound(name, shape) <= reserved_;
}

Status ShardWriter::add(TensorInfo info, const Source& source) {
  entries_bound_ += entry_bound(info.name, info.shape);
  names_.push_back(info.name);
  if (info.nbytes % kAlignment != 0 && !needs_own_shard(info.nbytes)) {
    Deferred deferred{.info = std::move(info), .bytes = {}};
    AUTOGLM_RETURN_IF_ERROR(for_each_piece(source, [&](std::span<const std::byte> piece) {
      deferred.bytes.insert(deferred.bytes.end(), piece.begin(), piece.end());
      return ok_status();
    }));
    deferred_bytes_ += deferred.info.nbytes;
    deferred_.push_back(std::move(deferred));
    return ok_status();
  }
  AUTOGLM_RETURN_IF_ERROR(
      for_each_piece(source, [&](std::span<const std::byte> piece) { return write_all(fd_, piece, shown_); }));
  info.offset = end_;
  end_ += info.nbytes;
  tensors_.push_back(std::move(info));
  return ok_status();
}

/// Moves the data, which starts at `reserved_`, to byte `to` before it.
Status ShardWriter::move_data(int64_t to) {
  std::vector<std::byte> buffer(1 << 20);
  int64_t done = 0;
  while (done < end_) {
    const ssize_t got = ::pread(fd_.get(), buffer.data(), buffer.size(), reserved_ + done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return system_failure(shown_, "cannot read back", got == 0 ? EIO : errno);
    if (::lseek(fd_.get(), to + done, SEEK_SET) < 0) return system_failure(shown_, "cannot seek", errno);
    AUTOGLM_RETURN_IF_ERROR(write_all(fd_, std::span(buffer).first(static_cast<size_t>(got)), shown_));
    done += got;
  }
  if (::ftruncate(fd_.get(), to + end_) != 0) return system_failure(shown_, "cannot truncate", errno);
  return ok_status();
}

Status ShardWriter::finish() {
  std::stable_sort(deferred_.begin(), deferred_.end(),
                   [](const Deferred& a, const Deferred& b) { return size_of(a.info.dtype) > size_of(b.info.dtype); });
  for (Deferred& deferred : deferred_) {
    AUTOGLM_RETURN_IF_ERROR(write_all(fd_, deferred.bytes, shown_));
    deferred.info.offset = end_;
    end_ += deferred.info.nbytes;
    tensors_.push_back(std::move(deferred.info));
  }
  deferred_.clear();
  deferred_bytes_ = 0;

  std::string header(kStart);
  for (const TensorInfo& tensor : tensors_) header += entry(tensor);
  header += '}';
  const int64_t exact = round_up(kLengthBytes + static_cast<int64_t>(header.size()));
  int64_t data_start = reserved_;
  if (end_ <= kMovedBytes) {
    AUTOGLM_RETURN_IF_ERROR(move_data(exact));
    data_start = exact;
  }
  header.resize(static_cast<size_t>(data_start - kLengthBytes), ' ');
  const uint64_t length = header.size();
  header.insert(0, reinterpret_cast<const char*>(&length), sizeof length);
  if (::lseek(fd_.get(), 0, SEEK_SET) < 0) return system_failure(shown_, "cannot seek", errno);
  AUTOGLM_RETURN_IF_ERROR(write_all(fd_, std::as_bytes(std::span(header)), shown_));
  if (::fsync(fd_.get()) != 0) return system_failure(shown_, "cannot fsync", errno);
  if (!fd_.close()) return system_failure(shown_, "cannot write", errno);
  return ok_status();
}

Status write_tensors(const std::filesystem::path& path, std::span<const StoredTensor> tensors) {
  int64_t reserved = 0;
  for (const StoredTensor& tensor : tensors) reserved += ShardWriter::least_reserved(tensor.name, tensor.shape);
  AUTOGLM_ASSIGN_OR_RETURN(ShardWriter file, ShardWriter::create(path, path, reserved));
  for (const StoredTensor& tensor : tensors) {
    std::span<const std::byte> rest = tensor.bytes;
    AUTOGLM_RETURN_IF_ERROR(file.add({.name = tensor.name,
                                      .dtype = tensor.dtype,
                                      .shape = tensor.shape,
                                      .nbytes = static_cast<int64_t>(tensor.bytes.size())},
                                     [&]() -> Result<std::span<const std::byte>> { return std::exchange(rest, {}); }));
  }
  return file.finish();
}

}  // namespace autoglm::format
