// A GGUF file: its header, every tensor's values, then the file as a model that is to become a folder.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "compress/export/gguf_import.h"
#include "compress/export/gguf_reader.h"
#include "core/format/checkpoint_writer.h"
#include "tests/fuzz/require.h"
#include "tests/fuzz/scratch.h"

using namespace autoglm;

namespace {

void require_one_line(const Status& status) {
  require(!status.message().empty() && status.message().find('\n') == std::string::npos);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto header = exports::parse_gguf(std::as_bytes(std::span(data, size)));
  if (!header.ok()) {
    require_one_line(header.status());
    return 0;
  }
  const auto path = fuzz::scratch_file("model.gguf", data, size);
  const auto reader = exports::GgufReader::open(path);
  require(reader.ok());
  for (const exports::GgufTensor& tensor : reader->tensors()) {
    require(tensor.offset >= 0 && tensor.offset + tensor.bytes() <= static_cast<int64_t>(size));
    std::vector<float> values(static_cast<size_t>(tensor.cols()));
    reader->read(tensor, tensor.rows() - 1, 1, values);
  }
  CancelToken cancel;
  auto writer = format::CheckpointWriter::create(path.parent_path() / "out");
  require(writer.ok());
  const auto report = exports::import_gguf(*reader, std::nullopt, *writer, cancel);
  if (!report.ok()) require_one_line(report.status());
  return 0;
}
