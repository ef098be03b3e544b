#include "core/format/staging_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <random>
#include <system_error>

#include "core/base/log.h"
#include "core/format/display.h"

namespace autoglm::format {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxNameBytes = 190;  // leaves room for the rest within the usual 255

/// FNV-1a.
uint64_t hash_of(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

/// Common start of the names of its hidden siblings of one kind.
std::string prefix_of(const fs::path& target, std::string_view kind) {
  return sibling_of(target, kind).filename().string() + "-";
}

/// A sibling name that no other process uses at this time.
fs::path fresh_sibling(const fs::path& target, std::string_view kind) {
  static std::random_device device;
  return target.parent_path() / fmt::format("{}{}-{:08x}", prefix_of(target, kind), getpid(), device());
}

/// Removes staging folders whose owners are dead; brings an old target back where its replacement never came.
void clear_leftovers(const fs::path& target) {
  std::error_code error;
  std::vector<fs::path> staging, old;
  for (fs::directory_iterator it(target.parent_path(), error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with(prefix_of(target, "tmp"))) staging.push_back(it->path());
    if (name.starts_with(prefix_of(target, "old"))) old.push_back(it->path());
  }
  for (const fs::path& folder : old) {
    const FileDescriptor lock = lock_folder(folder);
    if (!lock.valid()) continue;
    if (::rename(folder.c_str(), target.c_str()) == 0) {  // fails where a target stands
      warn(fmt::format("{}: brought back after an interrupted replacement", display_path(target)));
    } else if (errno == EEXIST || errno == ENOTEMPTY) {
      fs::remove_all(folder, error);
    }
  }
  for (const fs::path& folder : staging) {
    if (const FileDescriptor lock = lock_folder(folder); lock.valid()) fs::remove_all(folder, error);
  }
}

/// Absolute, without a trailing slash, links followed.
Result<fs::path> resolve(const fs::path& target) {
  std::error_code error;
  fs::path path = fs::absolute(target, error).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  if (target.empty() || error || !path.has_filename()) {
    return invalid_argument(
        fmt::format("'{}' is not a folder that can be written; name another", display_path(target)));
  }
  if (fs::is_symlink(path, error)) {
    const fs::path real = fs::canonical(path, error);
    if (error) return invalid_argument(display_path(path) + ": is a link to nothing; remove it or name another folder");
    path = real;
  }
  return path;
}

Status check_replaceable(const fs::path& target, bool overwrite) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(target, error);
  if (!fs::exists(status)) return ok_status();
  if (!fs::is_directory(status))
    return invalid_argument(display_path(target) + ": exists and is no folder; name another");
  if (fs::is_empty(target, error) && !error) return ok_status();
  if (!overwrite) return invalid_argument(display_path(target) + ": exists; name another folder or pass --overwrite");
  if (fs::exists(target / "config.json", error)) return ok_status();
  return invalid_argument(display_path(target) +
                          ": holds no config.json, so it is not a model folder and will not be replaced; name another");
}

}  // namespace

fs::path sibling_of(const fs::path& target, std::string_view kind) {
  std::string name = target.filename().string();
  if (name.size() > kMaxNameBytes) name = fmt::format("{}-{:016x}", name.substr(0, kMaxNameBytes), hash_of(name));
  return target.parent_path() / fmt::format(".{}.autoglm-{}", name, kind);
}

FileDescriptor lock_folder(const fs::path& folder, bool or_unlocked) {
  FileDescriptor fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat opened = {}, named = {};
  if (!fd.valid()) return {};
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0 && !(or_unlocked && errno != EWOULDBLOCK)) return {};
  // Between opening and locking, the folder may have been removed or published.
  const bool same =
      fstat(fd.get(), &opened) == 0 && lstat(folder.c_str(), &named) == 0 && opened.st_ino == named.st_ino;
  return same ? std::move(fd) : FileDescriptor();
}

Result<StagingFolder> StagingFolder::create(const fs::path& target, bool overwrite) {
  StagingFolder folder;
  AUTOGLM_ASSIGN_OR_RETURN(folder.target_, resolve(target));
  folder.overwrite_ = overwrite;
  clear_leftovers(folder.target_);
  AUTOGLM_RETURN_IF_ERROR(check_replaceable(folder.target_, overwrite));

  AUTOGLM_ASSIGN_OR_RETURN(folder.created_parents_, CreatedParents::of(folder.target_));

  // Another writer may take our folder for a leftover before it is locked: then try another name.
  for (int attempt = 0; attempt < 10 && !folder.lock_.valid(); ++attempt) {
    folder.path_ = fresh_sibling(folder.target_, "tmp");
    if (mkdir(folder.path_.c_str(), 0777) != 0) {
      if (errno == EEXIST) continue;
      return system_failure(folder.target_.parent_path(), "cannot create a folder in it", errno);
    }
    folder.lock_ = lock_folder(folder.path_, /*or_unlocked=*/true);
  }
  if (!folder.lock_.valid()) return resource_exhausted(display_path(folder.path_) + ": cannot lock the folder (flock)");
  return folder;
}

StagingFolder::~StagingFolder() {
  std::error_code error;
  if (lock_.valid()) fs::remove_all(path_, error);
}

Status StagingFolder::replace_target(bool exchange) {
  const auto failure = [&](int error) {
    if (error == EEXIST || error == ENOTEMPTY || error == ENOTDIR) {
      return invalid_argument(display_path(target_) + ": was created by someone else meanwhile; name another folder");
    }
    return system_failure(target_, "cannot be put in place", error);
  };
  // A folder takes the place of nothing or of an empty folder; rename refuses everything else.
  if (::rename(path_.c_str(), target_.c_str()) == 0) return ok_status();
  if (!overwrite_ || (errno != EEXIST && errno != ENOTEMPTY)) return failure(errno);
  AUTOGLM_RETURN_IF_ERROR(check_replaceable(target_, overwrite_));

  std::error_code error;
  if (exchange && syscall(SYS_renameat2, AT_FDCWD, path_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) {
    AUTOGLM_RETURN_IF_ERROR(sync_folder(target_.parent_path()));
    fs::remove_all(path_, error);  // the old one; what cannot be removed is left to the next writer
    return ok_status();
  }
  if (exchange && errno != ENOSYS && errno != EINVAL && errno != ENOTSUP) return failure(errno);
  const fs::path old = fresh_sibling(target_, "old");
  const FileDescriptor lock = lock_folder(target_);  // keeps other writers from bringing it back
  if (::rename(target_.c_str(), old.c_str()) != 0) return failure(errno);
  if (::rename(path_.c_str(), target_.c_str()) != 0) {
    const int reason = errno;
    if (::rename(old.c_str(), target_.c_str()) != 0) {
      return resource_exhausted(
          fmt::format("{}: could not be replaced; the old folder is {}", display_path(target_), display_path(old)));
    }
    return failure(reason);
  }
  AUTOGLM_RETURN_IF_ERROR(sync_folder(target_.parent_path()));
  fs::remove_all(old, error);
  return ok_status();
}

Status StagingFolder::publish(bool exchange) {
  AUTOGLM_RETURN_IF_ERROR(replace_target(exchange));
  lock_.close();
  created_parents_.keep();
  return sync_folder(target_.parent_path());
}

}  // namespace autoglm::format
