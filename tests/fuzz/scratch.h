#pragma once
/// Files for fuzz entries whose parser reads from disk: a folder in memory (/dev/shm) where there is one, emptied at
/// exit.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

namespace autoglm::fuzz {

/// This process's own folder, made at the first call and removed at exit.
inline const std::filesystem::path& scratch_folder() {
  struct Folder {
    std::filesystem::path path;
    Folder() {
      const auto base = std::filesystem::is_directory("/dev/shm") ? "/dev/shm" : std::filesystem::temp_directory_path();
      path = base / ("autoglm-fuzz-" + std::to_string(getpid()));
      std::filesystem::create_directories(path);
    }
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  };
  static const Folder folder;
  return folder.path;
}

/// Writes `size` bytes to `name` in the scratch folder and gives its path.
inline std::filesystem::path scratch_file(const std::string& name, const uint8_t* data, size_t size) {
  auto path = scratch_folder() / name;
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  return path;
}

}  // namespace autoglm::fuzz
