#include "core/format/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "core/base/memory.h"
#include "core/base/sha256.h"
#include "core/format/display.h"

namespace autoglm::format {

namespace fs = std::filesystem;

bool FileDescriptor::close() {
  const int fd = std::exchange(fd_, -1);
  return fd < 0 || ::close(fd) == 0;
}

Status system_failure(const std::filesystem::path& path, std::string_view what, int error) {
  std::string message = fmt::format("{}: {}: {}", display_path(path), what, std::generic_category().message(error));
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case EACCES:
    case EPERM:
    case EROFS:
    case EIO: return resource_exhausted(std::move(message));
    default: return bad_input(std::move(message));
  }
}

Result<CreatedParents> CreatedParents::of(const fs::path& target) {
  CreatedParents out;
  std::error_code error;
  for (fs::path parent = target.parent_path(); !fs::exists(parent, error); parent = parent.parent_path()) {
    if (error || parent == parent.parent_path()) break;
    out.made_.insert(out.made_.begin(), parent);
  }
  fs::create_directories(target.parent_path(), error);
  if (error) return system_failure(target.parent_path(), "cannot create the folder", error.value());
  return out;
}

CreatedParents::~CreatedParents() {
  for (auto parent = made_.rbegin(); parent != made_.rend(); ++parent) {
    if (::rmdir(parent->c_str()) != 0) break;  // someone else uses it by now
  }
}

int64_t free_bytes(const fs::path& path) {
  struct statvfs status = {};
  if (::statvfs(path.c_str(), &status) != 0) return -1;
  return static_cast<int64_t>(status.f_bavail) * static_cast<int64_t>(status.f_frsize);
}

Status check_space(const fs::path& path, int64_t needed, const fs::path& shown) {
  const int64_t left = free_bytes(path);
  if (left < 0 || left >= needed) return ok_status();
  return resource_exhausted(
      fmt::format("{}: the output needs {}, but the disk has only {} free; make room or name another folder",
                  display_path(shown), format_bytes(needed), format_bytes(left)));
}

Result<OpenedFile> open_regular_file(const std::filesystem::path& path) {
  OpenedFile file{FileDescriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK))};
  if (!file.fd.valid()) return system_failure(path, "cannot open", errno);
  struct stat status = {};
  if (fstat(file.fd.get(), &status) != 0) return system_failure(path, "cannot stat", errno);
  if (!S_ISREG(status.st_mode)) return bad_input(display_path(path) + ": is not a regular file");
  file.size = status.st_size;
  return file;
}

Result<std::string> read_text_file(const std::filesystem::path& path, int64_t max_bytes) {
  AUTOGLM_ASSIGN_OR_RETURN(const OpenedFile file, open_regular_file(path));
  if (file.size > max_bytes) {
    return bad_input(fmt::format("{}: has {}, more than the {} that such a file may have", display_path(path),
                                 format_bytes(file.size), format_bytes(max_bytes)));
  }
  std::string text(static_cast<size_t>(file.size), '\0');
  size_t filled = 0;
  while (filled < text.size()) {
    const ssize_t got = ::read(file.fd.get(), text.data() + filled, text.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_failure(path, "cannot read", errno);
    if (got == 0) break;  // cut short meanwhile
    filled += static_cast<size_t>(got);
  }
  text.resize(filled);
  return text;
}

Status write_all(const FileDescriptor& fd, std::span<const std::byte> bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd.get(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return system_failure(path, "cannot write", errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return ok_status();
}

Status write_at(const FileDescriptor& fd, int64_t at, std::span<const std::byte> bytes,
                const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd.get(), bytes.data(), bytes.size(), at);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return system_failure(path, "cannot write", written < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<size_t>(written));
    at += written;
  }
  return ok_status();
}

Status read_at(const FileDescriptor& fd, int64_t at, std::span<std::byte> bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t got = ::pread(fd.get(), bytes.data(), bytes.size(), at);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return system_failure(path, "cannot read", got < 0 ? errno : EIO);
    bytes = bytes.subspan(static_cast<size_t>(got));
    at += got;
  }
  return ok_status();
}

Status replace_file(const std::filesystem::path& path, std::string_view contents) {
  const std::filesystem::path staged =
      path.parent_path() / fmt::format(".{}.autoglm-tmp-{}", path.filename().string(), ::getpid());
  FileDescriptor fd(::open(staged.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666));
  if (!fd.valid()) return system_failure(path, "cannot write", errno);
  const auto write = [&]() -> Status {
    AUTOGLM_RETURN_IF_ERROR(write_all(fd, std::as_bytes(std::span(contents)), path));
    if (::fsync(fd.get()) != 0 || !fd.close()) return system_failure(path, "cannot write", errno);
    if (::rename(staged.c_str(), path.c_str()) != 0) return system_failure(path, "cannot put in place", errno);
    return ok_status();
  };
  if (Status status = write(); !status.ok()) {
    ::unlink(staged.c_str());
    return status;
  }
  return sync_folder(path.has_parent_path() ? path.parent_path() : ".");
}

Result<std::string> sha256_of_file(const std::filesystem::path& path, const CancelToken* cancel) {
  AUTOGLM_ASSIGN_OR_RETURN(const OpenedFile file, open_regular_file(path));
  Sha256 hash;
  std::string piece(1 << 20, '\0');
  while (true) {
    if (cancel != nullptr) AUTOGLM_RETURN_IF_ERROR(cancel->check());
    const ssize_t got = ::read(file.fd.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_failure(path, "cannot read", errno);
    if (got == 0) return hash.finish();
    hash.add({piece.data(), static_cast<size_t>(got)});
  }
}

Status sync_folder(const std::filesystem::path& folder) {
  const FileDescriptor fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return system_failure(folder, "cannot open", errno);
  // Some network filesystems know no fsync of folders.
  if (fsync(fd.get()) != 0 && errno != EINVAL && errno != ENOTSUP) return system_failure(folder, "cannot fsync", errno);
  return ok_status();
}

bool lies_in(const fs::path& input, const fs::path& output) {
  std::error_code error;
  if (!fs::exists(output, error)) return false;
  for (fs::path at = fs::canonical(input, error); !error; at = at.parent_path()) {
    if (fs::equivalent(at, output, error)) return true;
    if (at == at.parent_path()) break;
  }
  return false;
}

}  // namespace autoglm::format
