#include "core/format/mapped_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/format/display.h"
#include "core/format/file.h"

namespace autoglm::format {

Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  AUTOGLM_ASSIGN_OR_RETURN(const OpenedFile file, open_regular_file(path));
  if (file.size == 0) return bad_input(display_path(path) + ": is empty");
  const auto size = static_cast<size_t>(file.size);
  void* map = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd.get(), 0);
  if (map == MAP_FAILED) return system_failure(path, "cannot map", errno);
  // Tensors are read once, mostly in the order of the file: read ahead, and drop pages behind early.
  ::madvise(map, size, MADV_SEQUENTIAL);
  return MappedFile({static_cast<const std::byte*>(map), size});
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::release(int64_t offset, int64_t count) const {
  // A page fault maps up to 64 KiB around it (of what is kept, a huge page, which goes as a whole); rounding outward
  // takes those pages too. What neighbours lose is only their place in this process: the pages stay in the page cache.
  constexpr uint64_t kFaultAround = 64 << 10;
  const uint64_t begin = static_cast<uint64_t>(offset) / kFaultAround * kFaultAround;
  const uint64_t end = static_cast<uint64_t>(offset + count);
  const uint64_t length =
      std::min<uint64_t>((end + kFaultAround - 1) / kFaultAround * kFaultAround, bytes_.size()) - begin;
  ::madvise(const_cast<std::byte*>(bytes_.data()) + begin, length, MADV_DONTNEED);
}

void MappedFile::read_ahead(int64_t offset, int64_t count) const {
  const uint64_t page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t begin = static_cast<uint64_t>(offset) / page * page;
  const uint64_t end = std::min<uint64_t>(static_cast<uint64_t>(offset + count), bytes_.size());
  if (begin >= end) return;
  ::madvise(const_cast<std::byte*>(bytes_.data()) + begin, end - begin, MADV_WILLNEED);
}

void MappedFile::keep() const {
  auto* const map = const_cast<std::byte*>(bytes_.data());
  ::madvise(map, bytes_.size(), MADV_NORMAL);
#ifdef MADV_HUGEPAGE
  ::madvise(map, bytes_.size(), MADV_HUGEPAGE);  // read in pieces of 2 MB where the file system can: fewer translations
#endif
}

}  // namespace autoglm::format
