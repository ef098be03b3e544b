#include "core/format/rewrite.h"

#include <fmt/format.h>

#include <fstream>

#include "core/format/display.h"

namespace autoglm::format {

Status rewrite_tensor(const Checkpoint& checkpoint, std::string_view name, std::span<const std::byte> bytes) {
  const TensorInfo* info = checkpoint.find(name);
  if (info == nullptr || info->nbytes != static_cast<int64_t>(bytes.size())) {
    return invalid_argument(fmt::format("{}: tensor {} has no {} bytes to be replaced",
                                        display_path(checkpoint.folder()), display(name), bytes.size()));
  }
  const std::filesystem::path path = checkpoint.file_of(name);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(info->offset);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (file.flush()) return ok_status();
  return resource_exhausted(fmt::format("{}: tensor {} cannot be written", display_path(path), display(name)));
}

}  // namespace autoglm::format
