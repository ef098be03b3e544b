#pragma once
/// Helpers of this room's tests.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "core/format/quantized_weight.h"

namespace autoglm::format {

/// A test with a folder of its own.
class FolderTest : public testing::Test {
 protected:
  void SetUp() override { make_folder(std::filesystem::temp_directory_path()); }
  void make_folder(const std::filesystem::path& parent) {
    std::string pattern = (parent / "autoglm-format-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path write(const std::filesystem::path& name, std::string_view bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
    return folder_ / name;
  }

  std::filesystem::path folder_;
};

/// The bytes of a safetensors file: header length, `header`, `data`.
inline std::string safetensors_bytes(std::string_view header, std::string_view data) {
  const uint64_t size = header.size();
  std::string file(sizeof size, '\0');
  std::memcpy(file.data(), &size, sizeof size);
  return file.append(header).append(data);
}

inline std::string safetensors_bytes(const std::vector<StoredTensor>& tensors) {
  std::string header = "{", data;
  for (const StoredTensor& t : tensors) {
    header +=
        fmt::format(R"({}"{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", header.size() == 1 ? "" : ",",
                    t.name, to_string(t.dtype), fmt::join(t.shape, ","), data.size(), data.size() + t.bytes.size());
    data.append(reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size());
  }
  return safetensors_bytes(header + "}", data);
}

template <typename T>
StoredTensor stored(const std::string& name, DType dtype, const Shape& shape, const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {.name = name, .dtype = dtype, .shape = shape, .bytes = {bytes.begin(), bytes.end()}};
}

}  // namespace autoglm::format
