#include "compress/calibrate/hidden_states.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace autoglm::calibrate {
namespace {

/// A file without a name. Not every file system has O_TMPFILE; the others get one that is unlinked at once.
Result<int> open_unnamed(const std::filesystem::path& folder) {
#ifdef O_TMPFILE
  if (const int file = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600); file >= 0) return file;
#endif
  std::string name = (folder / ".autoglm-states-XXXXXX").string();
  const int file = ::mkstemp(name.data());
  if (file < 0) {
    return resource_exhausted(
        fmt::format("{}: cannot hold calibration states there: {}", folder.string(), std::strerror(errno)));
  }
  ::unlink(name.c_str());
  return file;
}

/// pread or pwrite until everything is moved.
template <typename Call, typename Byte>
Status move_all(Call call, int file, Byte* data, int64_t bytes, int64_t offset, const char* what) {
  while (bytes > 0) {
    const ssize_t moved = call(file, data, static_cast<size_t>(bytes), offset);
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0) {
      return resource_exhausted(
          fmt::format("cannot {} calibration states on disk: {}; free some space or raise --max-ram", what,
                      moved == 0 ? "the file is short" : std::strerror(errno)));
    }
    data += moved;
    bytes -= moved;
    offset += moved;
  }
  return ok_status();
}

}  // namespace

Result<HiddenStates> HiddenStates::create(std::vector<int64_t> lengths, int64_t width, at::ScalarType type,
                                          int64_t memory_limit, const std::filesystem::path& folder) {
  HiddenStates out;
  out.lengths_ = std::move(lengths);
  out.width_ = width;
  out.offsets_.push_back(0);
  const int64_t token_bytes = width * static_cast<int64_t>(c10::elementSize(type));
  for (const int64_t length : out.lengths_) {
    out.offsets_.push_back(out.offsets_.back() + length);
    if (out.offsets_.back() * token_bytes <= memory_limit)
      out.resident_ = static_cast<int64_t>(out.offsets_.size()) - 1;
  }
  const int64_t kept = out.offsets_[static_cast<size_t>(out.resident_)];
  out.memory_ = at::empty({kept, width}, type);
  out.spilled_ = (out.offsets_.back() - kept) * token_bytes;
  if (out.spilled_ > 0) {
    AUTOGLM_ASSIGN_OR_RETURN(out.file_, open_unnamed(folder));
  }
  return out;
}

HiddenStates::HiddenStates(HiddenStates&& other) noexcept { *this = std::move(other); }

HiddenStates& HiddenStates::operator=(HiddenStates&& other) noexcept {
  std::swap(lengths_, other.lengths_);
  std::swap(offsets_, other.offsets_);
  std::swap(width_, other.width_);
  std::swap(memory_, other.memory_);
  std::swap(resident_, other.resident_);
  std::swap(spilled_, other.spilled_);
  std::swap(file_, other.file_);
  return *this;
}

HiddenStates::~HiddenStates() {
  if (file_ >= 0) ::close(file_);
}

int64_t HiddenStates::bytes_of(int64_t first, int64_t count) const {
  return (offsets_[static_cast<size_t>(first + count)] - offsets_[static_cast<size_t>(first)]) * width_ *
         static_cast<int64_t>(memory_.element_size());
}

Result<at::Tensor> HiddenStates::get(int64_t first, int64_t count) const {
  const int64_t length = lengths_[static_cast<size_t>(first)];
  if (first + count <= resident_) {
    return memory_.narrow(0, offsets_[static_cast<size_t>(first)], count * length).view({count, length, width_});
  }
  at::Tensor out = at::empty({count, length, width_}, memory_.options());
  const int64_t inside = std::max<int64_t>(0, resident_ - first);
  if (inside > 0) {
    out.narrow(0, 0, inside)
        .copy_(memory_.narrow(0, offsets_[static_cast<size_t>(first)], inside * length).view({inside, length, width_}));
  }
  auto* data = static_cast<std::byte*>(out.narrow(0, inside, count - inside).data_ptr());
  AUTOGLM_RETURN_IF_ERROR(move_all(::pread, file_, data, bytes_of(first + inside, count - inside),
                                   bytes_of(resident_, first + inside - resident_), "read"));
  return out;
}

Status HiddenStates::put(int64_t first, const at::Tensor& states) {
  const int64_t count = states.size(0), length = states.size(1);
  const int64_t inside = std::clamp<int64_t>(resident_ - first, 0, count);
  if (inside > 0) {
    memory_.narrow(0, offsets_[static_cast<size_t>(first)], inside * length)
        .copy_(states.narrow(0, 0, inside).reshape({inside * length, width_}));
  }
  if (inside == count) return ok_status();
  const at::Tensor rest = states.narrow(0, inside, count - inside).to(at::kCPU, memory_.scalar_type()).contiguous();
  return move_all(::pwrite, file_, static_cast<const std::byte*>(rest.const_data_ptr()),
                  bytes_of(first + inside, count - inside), bytes_of(resident_, first + inside - resident_), "keep");
}

std::vector<Batch> cut_batches(const std::vector<int64_t>& lengths, int64_t tokens) {
  std::vector<Batch> batches;
  for (int64_t i = 0; i < static_cast<int64_t>(lengths.size()); ++i) {
    const int64_t length = lengths[static_cast<size_t>(i)];
    if (!batches.empty() && batches.back().length == length && batches.back().tokens() + length <= tokens) {
      ++batches.back().count;
    } else {
      batches.push_back({i, 1, length});
    }
  }
  return batches;
}

}  // namespace autoglm::calibrate
