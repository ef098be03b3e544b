#include "core/format/staged_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "core/format/display.h"
#include "core/format/staging_folder.h"

namespace autoglm::format {
namespace {

namespace fs = std::filesystem;

Status refuse_existing(const fs::path& target) {
  return invalid_argument(display_path(target) + ": exists; name another file or pass --overwrite");
}

/// Gives a file its name where nothing stands there, at once; errno says why not.
bool place_new(const fs::path& from, const fs::path& to) {
  if (::link(from.c_str(), to.c_str()) == 0) return ::unlink(from.c_str()) == 0;
  if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS) return false;
  // Without links, as on FAT; and where a rename cannot be told to replace nothing, as on some FUSE.
  if (::syscall(SYS_renameat2, AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return true;
  if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP) return false;
  if (struct stat found = {}; ::lstat(to.c_str(), &found) == 0) {
    errno = EEXIST;
    return false;
  }
  return ::rename(from.c_str(), to.c_str()) == 0;
}

}  // namespace

Result<StagedFile> StagedFile::create(const fs::path& target, bool overwrite) {
  StagedFile file;
  file.overwrite_ = overwrite;
  std::error_code error;
  file.target_ = fs::weakly_canonical(fs::absolute(target), error);
  if (error || !target.has_filename()) return invalid_argument(display_path(target) + ": is no name of a file");
  const fs::file_status status = fs::status(file.target_, error);
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    return invalid_argument(display_path(target) + ": is no file; name another");
  }
  if (fs::exists(status) && !overwrite) return refuse_existing(target);
  AUTOGLM_ASSIGN_OR_RETURN(file.created_parents_, CreatedParents::of(file.target_));
  file.path_ = sibling_of(file.target_, "part");
  FileDescriptor fd;
  for (struct stat opened = {}, named = {};;) {
    fd = FileDescriptor(::open(file.path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666));
    if (!fd.valid()) return resource_exhausted(system_failure(target, "cannot create", errno).message());
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      return resource_exhausted(display_path(target) + ": another process is writing it");
    }
    // Between opening and locking, another process may have published or removed it.
    if (::fstat(fd.get(), &opened) == 0 && ::lstat(file.path_.c_str(), &named) == 0 && opened.st_ino == named.st_ino)
      break;
  }
  if (::ftruncate(fd.get(), 0) != 0) return system_failure(target, "cannot write", errno);
  file.fd_ = std::move(fd);
  return file;
}

StagedFile::~StagedFile() {
  if (fd_.valid()) ::unlink(path_.c_str());
}

Status StagedFile::publish() {
  if (::fsync(fd_.get()) != 0) return system_failure(target_, "cannot fsync", errno);
  const bool placed = overwrite_ ? ::rename(path_.c_str(), target_.c_str()) == 0 : place_new(path_, target_);
  if (!placed && errno == EEXIST) return refuse_existing(target_);
  if (!placed) return system_failure(target_, "cannot be put in place", errno);
  created_parents_.keep();
  if (!fd_.close()) return system_failure(target_, "cannot write", errno);
  return sync_folder(target_.parent_path());
}

}  // namespace autoglm::format
