#include "core/format/checkpoint_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <utility>

#include "core/base/memory.h"
#include "core/format/display.h"
#include "core/format/json.h"
#include "core/format/shard_writer.h"
#include "core/format/staging_folder.h"

namespace autoglm::format {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxReserve = 64 << 20;        // under the format's bound of 100 MB
constexpr int64_t kMaxDeferredBytes = 64 << 20;  // held in memory
constexpr size_t kMaxNameBytes = 1 << 20;
constexpr size_t kPieceBytes = 8 << 20;

/// Whether `name` stays inside the folder it is relative to.
bool is_inside(const fs::path& name) {
  if (name.empty() || name.is_absolute() || !name.has_filename()) return false;
  return std::none_of(name.begin(), name.end(), [](const fs::path& part) { return part == ".." || part == "."; });
}

using Bytes = std::span<const std::byte>;

/// A source that hands out `bytes` in pieces; `check` sees each before, with the number of bytes before it.
template <typename Check>
ShardWriter::Source pieces(Bytes bytes, Check check) {
  return [bytes, done = size_t{0}, check]() mutable -> Result<Bytes> {
    const Bytes piece = bytes.subspan(done, std::min(bytes.size() - done, kPieceBytes));
    AUTOGLM_RETURN_IF_ERROR(check(piece, done));
    done += piece.size();
    return piece;
  };
}

/// `piece`: elements of a tensor of `from`, the first of which is `first_element`.
Status check_finite(const Checkpoint& from, const TensorInfo& info, int64_t first_element, Bytes piece) {
  const int64_t at = first_non_finite(info.dtype, piece);
  if (at < 0) return ok_status();
  return bad_input(
      fmt::format("{}: tensor {}: element {} is NaN or infinite; the checkpoint is damaged, fetch or convert it again",
                  display_path(from.file_of(info.name)), display(info.name), first_element + at));
}

}  // namespace

struct CheckpointWriter::Impl {
  StagingFolder staging;
  WriterOptions options;
  std::optional<ShardWriter> shard;
  int64_t reserve = kFirstReserve;
  int64_t shards = 0;                                    // finished ones
  std::map<std::string, int64_t, std::less<>> shard_of;  // every tensor, finished or not
  int64_t tensor_bytes = 0;
  bool finished = false, committed = false;
  Status failure;  // the first one

  fs::path part(int64_t index) const { return staging.path() / fmt::format("shard-{:05}.part", index + 1); }

  /// Remembers a failure; where space is lacking, says how much.
  Status fail(const Status& status, std::string_view what, int64_t needed) {
    if (status.ok()) return status;
    failure = status;
    if (const int64_t left = free_bytes(staging.path()); status.code() == StatusCode::kResourceExhausted && left >= 0) {
      failure = resource_exhausted(
          fmt::format("{}; {} needs {} after {} written, {} are free; make room or name another folder",
                      status.message(), what, format_bytes(needed), format_bytes(tensor_bytes), format_bytes(left)));
    }
    return failure;
  }

  Status check_cancelled() const { return options.cancel != nullptr ? options.cancel->check() : ok_status(); }

  Status check_open() const {
    if (!failure.ok()) return failure;
    return committed ? internal_error(display_path(staging.target()) + ": was committed, nothing can be added")
                     : ok_status();
  }

  Status close_shard() {
    if (!shard) return ok_status();
    const int64_t bytes = shard->deferred_bytes();
    AUTOGLM_RETURN_IF_ERROR(fail(shard->finish(), "the end of a shard", bytes));
    shard.reset();
    ++shards;
    return ok_status();
  }

  /// Makes `shard` one that can take the tensor.
  Status open_shard_for(std::string_view name, const Shape& shape, int64_t nbytes) {
    if (shard && !shard->has_room(name, shape)) {
      AUTOGLM_RETURN_IF_ERROR(close_shard());
      reserve = std::min(reserve * 4, kMaxReserve);
    }
    if (shard && !shard->empty() &&
        (nbytes > options.max_shard_bytes - shard->data_bytes() || ShardWriter::needs_own_shard(nbytes)))
      AUTOGLM_RETURN_IF_ERROR(close_shard());
    if (shard) return ok_status();
    const int64_t reserved = std::max(reserve, ShardWriter::least_reserved(name, shape));
    auto opened = ShardWriter::create(part(shards), staging.target(), reserved);
    AUTOGLM_RETURN_IF_ERROR(fail(opened.status(), "a shard", nbytes));
    shard = std::move(*opened);
    return ok_status();
  }

  Status add(TensorInfo info, const ShardWriter::Source& source) {
    AUTOGLM_RETURN_IF_ERROR(check_open());
    if (finished) return internal_error("tensor " + display(info.name) + " comes after the checkpoint was finished");
    if (info.name.empty() || info.name.size() > kMaxNameBytes || info.name == "__metadata__" ||
        shard_of.contains(info.name) || !is_utf8(info.name)) {
      return invalid_argument("tensor " + display(info.name) + " has a name that was used or cannot be");
    }
    AUTOGLM_RETURN_IF_ERROR(open_shard_for(info.name, info.shape, info.nbytes));
    const int64_t nbytes = info.nbytes;
    const std::string name = info.name;
    AUTOGLM_RETURN_IF_ERROR(fail(shard->add(std::move(info), source), "tensor " + display(name), nbytes));
    shard_of.emplace(name, shards);
    tensor_bytes += nbytes;
    const bool is_full = shard->deferred_bytes() > kMaxDeferredBytes || ShardWriter::needs_own_shard(nbytes);
    return is_full ? close_shard() : ok_status();
  }

  std::string final_name(int64_t index) const {
    return shards == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, shards);
  }

  Status finish() {
    AUTOGLM_RETURN_IF_ERROR(check_open());
    if (finished) return ok_status();
    AUTOGLM_RETURN_IF_ERROR(close_shard());
    if (shards == 0) return failure = invalid_argument(display_path(staging.target()) + ": no tensor was written");
    for (int64_t i = 0; i < shards; ++i) {
      if (::rename(part(i).c_str(), (staging.path() / final_name(i)).c_str()) != 0) {
        return failure = system_failure(staging.target(), "cannot rename a shard", errno);
      }
    }
    finished = true;
    if (shards == 1) return ok_status();
    nlohmann::ordered_json index = {{"metadata", {{"total_size", tensor_bytes}}},
                                    {"weight_map", nlohmann::json::object()}};
    auto& weight_map = index["weight_map"].get_ref<nlohmann::ordered_json::object_t&>();
    weight_map.reserve(shard_of.size());
    for (const auto& [name, shard_index] : shard_of) weight_map.emplace_back(name, final_name(shard_index));
    return write_file("model.safetensors.index.json", index.dump(2) + "\n");
  }

  /// Creates a file of the folder and hands its descriptor to `fill`.
  template <typename Fill>
  Status with_file(const fs::path& name, int64_t size, const Fill& fill) {
    AUTOGLM_RETURN_IF_ERROR(check_open());
    if (!is_inside(name)) {
      return invalid_argument(fmt::format("{} is not the name of a file in the folder", display(name.string())));
    }
    const fs::path path = staging.path() / name, shown = staging.target() / name;
    std::error_code error;
    fs::create_directories(path.parent_path(), error);
    if (error) return fail(system_failure(shown.parent_path(), "cannot create the folder", error.value()), "it", size);
    const auto write = [&]() -> Status {
      FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666));
      if (!fd.valid()) return system_failure(shown, "cannot create", errno);
      AUTOGLM_RETURN_IF_ERROR(fill(fd, shown));
      if (::fsync(fd.get()) != 0) return system_failure(shown, "cannot fsync", errno);
      return fd.close() ? ok_status() : system_failure(shown, "cannot write", errno);
    };
    return fail(write(), "the file", size);
  }

  Status write_file(const fs::path& name, std::string_view contents) {
    return with_file(name, static_cast<int64_t>(contents.size()), [&](const FileDescriptor& fd, const fs::path& shown) {
      return write_all(fd, std::as_bytes(std::span(contents)), shown);
    });
  }

  Status sync_folders() const {
    AUTOGLM_RETURN_IF_ERROR(sync_folder(staging.path()));
    std::error_code error;
    for (fs::recursive_directory_iterator it(staging.path(), error), end; !error && it != end; it.increment(error)) {
      if (it->is_directory(error)) AUTOGLM_RETURN_IF_ERROR(sync_folder(it->path()));
    }
    return error ? system_failure(staging.target(), "cannot list", error.value()) : ok_status();
  }
};

CheckpointWriter::CheckpointWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CheckpointWriter::CheckpointWriter(CheckpointWriter&&) noexcept = default;
CheckpointWriter& CheckpointWriter::operator=(CheckpointWriter&&) noexcept = default;
CheckpointWriter::~CheckpointWriter() = default;

Result<CheckpointWriter> CheckpointWriter::create(const fs::path& target, const WriterOptions& options) {
  AUTOGLM_ASSIGN_OR_RETURN(StagingFolder staging, StagingFolder::create(target, options.overwrite));
  AUTOGLM_RETURN_IF_ERROR(check_space(staging.path(), options.expected_bytes, target));
  return CheckpointWriter(std::make_unique<Impl>(Impl{.staging = std::move(staging), .options = options}));
}

Status CheckpointWriter::add(std::string_view name, DType dtype, const Shape& shape, std::span<const std::byte> bytes) {
  const std::optional<int64_t> count = element_count(shape);
  int64_t expected = 0;
  if (!count || __builtin_mul_overflow(*count, size_of(dtype), &expected) || !std::cmp_equal(expected, bytes.size())) {
    return invalid_argument(fmt::format("tensor {} {} [{}] comes with {} bytes", display(name), to_string(dtype),
                                        fmt::join(shape, ", "), bytes.size()));
  }
  return impl_->add({.name = std::string(name), .dtype = dtype, .shape = shape, .nbytes = expected},
                    pieces(bytes, [this](Bytes, size_t) { return impl_->check_cancelled(); }));
}

Status CheckpointWriter::add_streamed(std::string_view name, DType dtype, const Shape& shape,
                                      const ShardWriter::Source& source) {
  const std::optional<int64_t> count = element_count(shape);
  int64_t nbytes = 0;
  if (!count || __builtin_mul_overflow(*count, size_of(dtype), &nbytes)) {
    return invalid_argument(fmt::format("tensor {} has the shape [{}]", display(name), fmt::join(shape, ", ")));
  }
  int64_t given = 0;
  const auto counted = [&]() -> Result<Bytes> {
    AUTOGLM_RETURN_IF_ERROR(impl_->check_cancelled());
    AUTOGLM_ASSIGN_OR_RETURN(const Bytes piece, source());
    given += static_cast<int64_t>(piece.size());
    if (given > nbytes || (piece.empty() && given < nbytes)) {
      return internal_error(fmt::format("tensor {} comes with {} bytes instead of {}", display(name), given, nbytes));
    }
    return piece;
  };
  return impl_->add({.name = std::string(name), .dtype = dtype, .shape = shape, .nbytes = nbytes}, counted);
}

Status CheckpointWriter::add(std::string_view name, const Checkpoint& from, std::string_view source_name,
                             const CopyOptions& options) {
  AUTOGLM_ASSIGN_OR_RETURN(Bytes bytes, from.bytes(source_name));
  const TensorInfo& source = *from.find(source_name);
  TensorInfo info = source;
  info.name = name;
  int64_t skipped = 0;  // bytes before the first row
  if (options.rows) {
    const int64_t rows = *options.rows, first = options.first_row;
    if (info.shape.empty() || rows < 0 || first < 0 || first > info.shape[0] - rows) {
      return invalid_argument(
          fmt::format("tensor {}: {} rows from row {} on do not exist", display(source_name), rows, first));
    }
    const int64_t row_bytes = info.shape[0] > 0 ? info.nbytes / info.shape[0] : 0;
    skipped = first * row_bytes;
    info.shape[0] = rows;
    info.nbytes = rows * row_bytes;
    bytes = bytes.subspan(static_cast<size_t>(skipped), static_cast<size_t>(info.nbytes));
  }
  const auto check = [&](Bytes piece, size_t done) {
    from.release(source_name);  // the piece before
    AUTOGLM_RETURN_IF_ERROR(impl_->check_cancelled());
    const int64_t first_element = (skipped + static_cast<int64_t>(done)) / size_of(source.dtype);
    return options.finite ? check_finite(from, source, first_element, piece) : ok_status();
  };
  return impl_->add(std::move(info), pieces(bytes, check));
}

Status CheckpointWriter::write_file(const fs::path& name, std::string_view contents) {
  return impl_->write_file(name, contents);
}

Status CheckpointWriter::copy_file(const fs::path& from, const fs::path& name) {
  AUTOGLM_ASSIGN_OR_RETURN(const OpenedFile source, open_regular_file(from));
  return impl_->with_file(name, source.size, [&](const FileDescriptor& fd, const fs::path& shown) -> Status {
    std::vector<std::byte> buffer(1 << 20);
    while (true) {
      const ssize_t got = ::read(source.fd.get(), buffer.data(), buffer.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return system_failure(from, "cannot read", errno);
      if (got == 0) return ok_status();
      AUTOGLM_RETURN_IF_ERROR(impl_->check_cancelled());
      AUTOGLM_RETURN_IF_ERROR(write_all(fd, std::span(buffer).first(static_cast<size_t>(got)), shown));
    }
  });
}

Status CheckpointWriter::finish() { return impl_->finish(); }

Status CheckpointWriter::commit() {
  AUTOGLM_RETURN_IF_ERROR(impl_->finish());
  AUTOGLM_RETURN_IF_ERROR(impl_->sync_folders());
  AUTOGLM_RETURN_IF_ERROR(impl_->staging.publish());
  impl_->committed = true;
  return ok_status();
}

const fs::path& CheckpointWriter::target() const { return impl_->staging.target(); }
const fs::path& CheckpointWriter::staging() const { return impl_->staging.path(); }
int64_t CheckpointWriter::tensor_bytes() const { return impl_->tensor_bytes; }

}  // namespace autoglm::format
