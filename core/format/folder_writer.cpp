#include "core/format/folder_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "core/base/memory.h"
#include "core/format/display.h"

namespace autoglm::format {
namespace {

namespace fs = std::filesystem;

/// Whether `name` stays inside the folder it is relative to.
bool is_inside(const fs::path& name) {
  if (name.empty() || name.is_absolute() || !name.has_filename()) return false;
  return std::none_of(name.begin(), name.end(), [](const fs::path& part) { return part == ".." || part == "."; });
}

}  // namespace

Result<FolderWriter> FolderWriter::create(const fs::path& target, const FolderOptions& options) {
  AUTOGLM_ASSIGN_OR_RETURN(StagingFolder staging, StagingFolder::create(target, options.overwrite));
  AUTOGLM_RETURN_IF_ERROR(check_space(staging.path(), options.expected_bytes, target));
  return FolderWriter(std::move(staging), options);
}

Status FolderWriter::fail(const Status& status, std::string_view what, int64_t needed) {
  if (status.ok()) return status;
  if (!failure_.ok()) return failure_;
  failure_ = status;
  if (const int64_t left = free_bytes(staging()); status.code() == StatusCode::kResourceExhausted && left >= 0) {
    failure_ = resource_exhausted(
        fmt::format("{}; {} needs {} after {} written, {} are free; make room or name another folder", status.message(),
                    what, format_bytes(needed), format_bytes(written_), format_bytes(left)));
  }
  return failure_;
}

Status FolderWriter::check_cancelled() const {
  return options_.cancel != nullptr ? options_.cancel->check() : ok_status();
}

Status FolderWriter::check_open() const {
  if (!failure_.ok()) return failure_;
  return committed_ ? internal_error(display_path(target()) + ": was committed, nothing can be added") : ok_status();
}

Status FolderWriter::with_file(const fs::path& name, int64_t size, const Fill& fill) {
  AUTOGLM_RETURN_IF_ERROR(check_open());
  if (!is_inside(name)) {
    return invalid_argument(fmt::format("{} is not the name of a file in the folder", display(name.string())));
  }
  const fs::path path = staging() / name, shown = target() / name;
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  if (error) return fail(system_failure(shown.parent_path(), "cannot create the folder", error.value()), "it", size);
  const auto write = [&]() -> Status {
    FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666));
    if (!fd.valid()) return system_failure(shown, "cannot create", errno);
    AUTOGLM_RETURN_IF_ERROR(fill(fd, shown));
    if (::fsync(fd.get()) != 0) return system_failure(shown, "cannot fsync", errno);
    return fd.close() ? ok_status() : system_failure(shown, "cannot write", errno);
  };
  return fail(write(), "the file", size);
}

Status FolderWriter::write_file(const fs::path& name, std::string_view contents) {
  return with_file(name, static_cast<int64_t>(contents.size()), [&](const FileDescriptor& fd, const fs::path& shown) {
    return write_all(fd, std::as_bytes(std::span(contents)), shown);
  });
}

Status FolderWriter::copy_file(const fs::path& from, const fs::path& name) {
  AUTOGLM_ASSIGN_OR_RETURN(const OpenedFile source, open_regular_file(from));
  return with_file(name, source.size, [&](const FileDescriptor& fd, const fs::path& shown) -> Status {
    std::vector<std::byte> buffer(1 << 20);
    while (true) {
      const ssize_t got = ::read(source.fd.get(), buffer.data(), buffer.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return system_failure(from, "cannot read", errno);
      if (got == 0) return ok_status();
      AUTOGLM_RETURN_IF_ERROR(check_cancelled());
      AUTOGLM_RETURN_IF_ERROR(write_all(fd, std::span(buffer).first(static_cast<size_t>(got)), shown));
    }
  });
}

Status FolderWriter::sync_folders() const {
  AUTOGLM_RETURN_IF_ERROR(sync_folder(staging()));
  std::error_code error;
  for (fs::recursive_directory_iterator it(staging(), error), end; !error && it != end; it.increment(error)) {
    if (it->is_directory(error)) AUTOGLM_RETURN_IF_ERROR(sync_folder(it->path()));
  }
  return error ? system_failure(target(), "cannot list", error.value()) : ok_status();
}

Status FolderWriter::commit() {
  AUTOGLM_RETURN_IF_ERROR(check_open());
  AUTOGLM_RETURN_IF_ERROR(sync_folders());
  AUTOGLM_RETURN_IF_ERROR(staging_.publish());
  committed_ = true;
  return ok_status();
}

}  // namespace autoglm::format
