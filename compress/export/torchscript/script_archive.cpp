#include "compress/export/torchscript/script_archive.h"

#include <caffe2/serialize/inline_container.h>
#include <fmt/format.h>
#include <torch/csrc/jit/serialization/export.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "core/base/progress.h"
#include "core/format/display.h"

namespace autoglm::exports {
namespace {

constexpr size_t kPiece = 4 << 20;

int64_t total_bytes(const std::map<const void*, MappedTensor>& tensors) {
  int64_t total = 0;
  for (const auto& [data, tensor] : tensors) total += std::ssize(tensor.bytes);
  return total;
}

/// Takes what PyTorch's writer gives, piece after piece.
class Sink {
 public:
  Sink(const std::map<const void*, MappedTensor>& tensors, const format::Checkpoint& checkpoint,
       const format::FileDescriptor& fd, const std::filesystem::path& shown, const CancelToken& cancel)
      : tensors_(tensors),
        checkpoint_(checkpoint),
        fd_(fd),
        shown_(shown),
        cancel_(cancel),
        progress_("writing", total_bytes(tensors)) {}

  /// After a failure, what comes is dropped; and where the next record of the zip file would begin, once, this throws:
  /// there alone the writer knows where it stands, and its destructor ends the file without throwing itself.
  size_t take(const void* data, size_t size) {
    constexpr std::string_view kRecord = "PK\3\4";
    if (!status_.ok()) {
      const std::string_view bytes(static_cast<const char*>(data), size);
      if (!thrown_ && bytes.starts_with(kRecord) && !tensors_.contains(data)) {
        thrown_ = true;
        throw std::runtime_error(status_.message());
      }
      return size;
    }
    const auto tensor = tensors_.find(data);
    status_ = tensor != tensors_.end() && tensor->second.bytes.size() == size
                  ? write_tensor(tensor->second)
                  : write({static_cast<const std::byte*>(data), size});
    return size;
  }

  const Status& status() const { return status_; }
  ScriptArchive archive() && { return std::move(archive_); }

 private:
  Status write(std::span<const std::byte> bytes) {
    for (size_t at = 0; at < bytes.size(); at += kPiece) {
      AUTOGLM_RETURN_IF_ERROR(cancel_.check());
      const auto piece = bytes.subspan(at, std::min(kPiece, bytes.size() - at));
      AUTOGLM_RETURN_IF_ERROR(format::write_at(fd_, archive_.bytes, piece, shown_));
      archive_.bytes += std::ssize(piece);
    }
    return ok_status();
  }

  Status write_tensor(const MappedTensor& tensor) {
    if (format::first_non_finite(checkpoint_.find(tensor.name)->dtype, tensor.bytes) >= 0) {
      return bad_input(
          fmt::format("tensor {} holds NaN or infinity; the checkpoint is damaged", format::display(tensor.name)));
    }
    archive_.offsets[tensor.bytes.data()] = archive_.bytes;
    AUTOGLM_RETURN_IF_ERROR(write(tensor.bytes));
    checkpoint_.release(tensor.name);
    done_ += std::ssize(tensor.bytes);
    progress_.update(done_);
    return ok_status();
  }

  const std::map<const void*, MappedTensor>& tensors_;
  const format::Checkpoint& checkpoint_;
  const format::FileDescriptor& fd_;
  const std::filesystem::path& shown_;
  const CancelToken& cancel_;
  Progress progress_;
  int64_t done_ = 0;
  Status status_;
  bool thrown_ = false;
  ScriptArchive archive_;
};

}  // namespace

Result<ScriptArchive> write_archive(const torch::jit::Module& module,
                                    const std::map<const void*, MappedTensor>& tensors,
                                    const format::Checkpoint& checkpoint, const format::FileDescriptor& fd,
                                    const std::filesystem::path& shown, const CancelToken& cancel) {
  Sink sink(tensors, checkpoint, fd, shown, cancel);
  try {
    caffe2::serialize::PyTorchStreamWriter writer([&](const void* data, size_t size) { return sink.take(data, size); });
    torch::jit::ScriptModuleSerializer(writer).serialize(module, {}, /*bytecode_format=*/false,
                                                         /*save_mobile_debug_info=*/false);
    writer.writeEndOfFile();
  } catch (...) {
    if (!sink.status().ok()) return sink.status();
    throw;
  }
  AUTOGLM_RETURN_IF_ERROR(sink.status());
  ScriptArchive archive = std::move(sink).archive();
  for (const auto& [data, tensor] : tensors) {
    if (!archive.offsets.contains(data)) return internal_error(fmt::format("{} was not written", tensor.name));
  }
  return archive;
}

Status check_archive(const ScriptArchive& archive, const std::map<const void*, MappedTensor>& tensors,
                     const format::Checkpoint& checkpoint, const format::FileDescriptor& fd,
                     const std::filesystem::path& shown, const CancelToken& cancel) {
  Progress progress("reading back", total_bytes(tensors));
  int64_t done = 0;
  std::vector<std::byte> found(kPiece);
  for (const auto& [data, tensor] : tensors) {
    for (size_t at = 0; at < tensor.bytes.size(); at += kPiece) {
      AUTOGLM_RETURN_IF_ERROR(cancel.check());
      const auto expected = tensor.bytes.subspan(at, std::min(kPiece, tensor.bytes.size() - at));
      const auto piece = std::span(found).first(expected.size());
      AUTOGLM_RETURN_IF_ERROR(format::read_at(fd, archive.offsets.at(data) + static_cast<int64_t>(at), piece, shown));
      if (std::memcmp(piece.data(), expected.data(), piece.size()) != 0) {
        return internal_error(fmt::format("{} is not read back as it was written", format::display(tensor.name)));
      }
    }
    checkpoint.release(tensor.name);
    done += std::ssize(tensor.bytes);
    progress.update(done);
  }
  return ok_status();
}

}  // namespace autoglm::exports
