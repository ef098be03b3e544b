// A program outside the project that reads a safetensors header with the installed core rooms.
#include <core/format/safetensors.h>

#include <cstring>
#include <iostream>
#include <string>

int main() {
  const std::string header = R"({"weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  std::string file(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(file.data(), &length, sizeof length);
  file += header + std::string(8, '\0');

  const auto good = autoglm::format::parse_safetensors(std::as_bytes(std::span(file)));
  const auto bad = autoglm::format::parse_safetensors(std::as_bytes(std::span(file)).first(20));
  if (!good.ok() || bad.ok()) return 1;
  std::cout << "core: " << bad.status().message() << "\n";
  return 0;
}
