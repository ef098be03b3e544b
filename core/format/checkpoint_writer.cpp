#include "core/format/checkpoint_writer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/format/display.h"
#include "core/format/json.h"
#include "core/format/shard_writer.h"

namespace autoglm::format {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxReserve = 64 << 20;        // under the format's bound of 100 MB
constexpr int64_t kMaxDeferredBytes = 64 << 20;  // held in memory
constexpr size_t kMaxNameBytes = 1 << 20;
constexpr size_t kPieceBytes = 8 << 20;

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
  FolderWriter folder;
  int64_t max_shard_bytes;
  std::optional<ShardWriter> shard;
  int64_t reserve = kFirstReserve;
  int64_t shards = 0;                                    // finished ones
  std::map<std::string, int64_t, std::less<>> shard_of;  // every tensor, finished or not
  int64_t tensor_bytes = 0;
  bool finished = false;

  fs::path part(int64_t index) const { return folder.staging() / fmt::format("shard-{:05}.part", index + 1); }

  Status close_shard() {
    if (!shard) return ok_status();
    const int64_t bytes = shard->deferred_bytes();
    AUTOGLM_RETURN_IF_ERROR(folder.fail(shard->finish(), "the end of a shard", bytes));
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
        (nbytes > max_shard_bytes - shard->data_bytes() || ShardWriter::needs_own_shard(nbytes)))
      AUTOGLM_RETURN_IF_ERROR(close_shard());
    if (shard) return ok_status();
    const int64_t reserved = std::max(reserve, ShardWriter::least_reserved(name, shape));
    auto opened = ShardWriter::create(part(shards), folder.target(), reserved);
    AUTOGLM_RETURN_IF_ERROR(folder.fail(opened.status(), "a shard", nbytes));
    shard = std::move(*opened);
    return ok_status();
  }

  Status add(TensorInfo info, const ShardWriter::Source& source) {
    AUTOGLM_RETURN_IF_ERROR(folder.check_open());
    if (finished) return internal_error("tensor " + display(info.name) + " comes after the checkpoint was finished");
    if (info.name.empty() || info.name.size() > kMaxNameBytes || info.name == "__metadata__" ||
        shard_of.contains(info.name) || !is_utf8(info.name)) {
      return invalid_argument("tensor " + display(info.name) + " has a name that was used or cannot be");
    }
    AUTOGLM_RETURN_IF_ERROR(open_shard_for(info.name, info.shape, info.nbytes));
    const int64_t nbytes = info.nbytes;
    const std::string name = info.name;
    AUTOGLM_RETURN_IF_ERROR(folder.fail(shard->add(std::move(info), source), "tensor " + display(name), nbytes));
    shard_of.emplace(name, shards);
    tensor_bytes += nbytes;
    folder.count(nbytes);
    const bool is_full = shard->deferred_bytes() > kMaxDeferredBytes || ShardWriter::needs_own_shard(nbytes);
    return is_full ? close_shard() : ok_status();
  }

  std::string final_name(int64_t index) const {
    return shards == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, shards);
  }

  Status finish() {
    AUTOGLM_RETURN_IF_ERROR(folder.check_open());
    if (finished) return ok_status();
    AUTOGLM_RETURN_IF_ERROR(close_shard());
    if (shards == 0) {
      return folder.fail(invalid_argument(display_path(folder.target()) + ": no tensor was written"), "", 0);
    }
    for (int64_t i = 0; i < shards; ++i) {
      if (::rename(part(i).c_str(), (folder.staging() / final_name(i)).c_str()) != 0) {
        return folder.fail(system_failure(folder.target(), "cannot rename a shard", errno), "it", 0);
      }
    }
    finished = true;
    if (shards == 1) return ok_status();
    nlohmann::ordered_json index = {{"metadata", {{"total_size", tensor_bytes}}},
                                    {"weight_map", nlohmann::json::object()}};
    auto& weight_map = index["weight_map"].get_ref<nlohmann::ordered_json::object_t&>();
    weight_map.reserve(shard_of.size());
    for (const auto& [name, shard_index] : shard_of) weight_map.emplace_back(name, final_name(shard_index));
    return folder.write_file("model.safetensors.index.json", index.dump(2) + "\n");
  }
};

CheckpointWriter::CheckpointWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CheckpointWriter::CheckpointWriter(CheckpointWriter&&) noexcept = default;
CheckpointWriter& CheckpointWriter::operator=(CheckpointWriter&&) noexcept = default;
CheckpointWriter::~CheckpointWriter() = default;

Result<CheckpointWriter> CheckpointWriter::create(const fs::path& target, const WriterOptions& options) {
  AUTOGLM_ASSIGN_OR_RETURN(FolderWriter folder, FolderWriter::create(target, {.overwrite = options.overwrite,
                                                                              .expected_bytes = options.expected_bytes,
                                                                              .cancel = options.cancel}));
  return CheckpointWriter(
      std::make_unique<Impl>(Impl{.folder = std::move(folder), .max_shard_bytes = options.max_shard_bytes}));
}

Status CheckpointWriter::add(std::string_view name, DType dtype, const Shape& shape, std::span<const std::byte> bytes) {
  const std::optional<int64_t> count = element_count(shape);
  int64_t expected = 0;
  if (!count || __builtin_mul_overflow(*count, size_of(dtype), &expected) || !std::cmp_equal(expected, bytes.size())) {
    return invalid_argument(fmt::format("tensor {} {} [{}] comes with {} bytes", display(name), to_string(dtype),
                                        fmt::join(shape, ", "), bytes.size()));
  }
  return impl_->add({.name = std::string(name), .dtype = dtype, .shape = shape, .nbytes = expected},
                    pieces(bytes, [this](Bytes, size_t) { return impl_->folder.check_cancelled(); }));
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
    AUTOGLM_RETURN_IF_ERROR(impl_->folder.check_cancelled());
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
    const int64_t position = skipped + static_cast<int64_t>(done);
    from.read_ahead(source_name, position + kReadAheadBytes, std::ssize(piece));
    AUTOGLM_RETURN_IF_ERROR(impl_->folder.check_cancelled());
    return options.finite ? check_finite(from, source, position / size_of(source.dtype), piece) : ok_status();
  };
  return impl_->add(std::move(info), pieces(bytes, check));
}

FolderWriter& CheckpointWriter::folder() { return impl_->folder; }

Status CheckpointWriter::write_file(const fs::path& name, std::string_view contents) {
  return impl_->folder.write_file(name, contents);
}

Status CheckpointWriter::copy_file(const fs::path& from, const fs::path& name) {
  return impl_->folder.copy_file(from, name);
}

Status CheckpointWriter::finish() { return impl_->finish(); }

Status CheckpointWriter::commit() {
  AUTOGLM_RETURN_IF_ERROR(impl_->finish());
  return impl_->folder.commit();
}

const fs::path& CheckpointWriter::target() const { return impl_->folder.target(); }
const fs::path& CheckpointWriter::staging() const { return impl_->folder.staging(); }
int64_t CheckpointWriter::tensor_bytes() const { return impl_->tensor_bytes; }

}  // namespace autoglm::format
