// A safetensors file: its header, then the same bytes as a checkpoint whose module "m" is read by several schemes.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/format/checkpoint.h"
#include "core/format/quantized_weight.h"
#include "core/format/safetensors.h"
#include "tests/fuzz/require.h"
#include "tests/fuzz/scratch.h"

using namespace autoglm;
using namespace autoglm::format;

namespace {

void require_one_line(const Status& status) {
  require(!status.message().empty() && status.message().find('\n') == std::string::npos);
}

constexpr int64_t kRows = 4, kCols = 40;  // of the seeds' module

void read_quantized(const Checkpoint& checkpoint) {
  const QuantArgs schemes[] = {
      {.num_bits = 4, .symmetric = false, .strategy = Strategy::kGroup, .group_size = 8},
      {.num_bits = 3, .symmetric = true, .strategy = Strategy::kChannel},
      {.num_bits = 8, .symmetric = true, .strategy = Strategy::kTensor},
  };
  for (const QuantArgs& args : schemes) {
    for (const std::string_view format : {kPackQuantized, kIntQuantized}) {
      const auto weight = decode(checkpoint, "m", {.weights = args}, format, {kRows, kCols});
      if (!weight.ok()) {
        require_one_line(weight.status());
        continue;
      }
      std::vector<float> values(kRows * kCols);
      dequantize(*weight, values);
      const auto tensors = encode(*weight, "m", format);
      require(tensors.size() >= 2);
      const auto rows = decode_rows(checkpoint, "m", {.weights = args}, format, {kRows, kCols}, 1, 2);
      require(rows.ok());
      std::vector<float> part(2 * kCols);
      dequantize(*rows, part);
      require(std::equal(part.begin(), part.end(), values.begin() + kCols));
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  const auto header = parse_safetensors(file);
  if (!header.ok()) {
    require_one_line(header.status());
    return 0;
  }
  int64_t end = -1;
  for (const TensorInfo& tensor : header->tensors) {
    require(tensor.offset >= 8 && tensor.nbytes >= 0 && tensor.offset + tensor.nbytes <= static_cast<int64_t>(size));
    require(end < 0 || tensor.offset == end);
    end = tensor.offset + tensor.nbytes;
    const auto count = element_count(tensor.shape);
    require(count.has_value() && *count * size_of(tensor.dtype) == tensor.nbytes);
    std::vector<float> values(static_cast<size_t>(*count));
    to_float(tensor.dtype, file.subspan(static_cast<size_t>(tensor.offset), static_cast<size_t>(tensor.nbytes)),
             values);
  }
  const auto path = fuzz::scratch_file("model.safetensors", data, size);
  const auto checkpoint = Checkpoint::open(path.parent_path());
  if (!checkpoint.ok()) {
    require_one_line(checkpoint.status());
    return 0;
  }
  require(checkpoint->names().size() == header->tensors.size());
  read_quantized(*checkpoint);
  return 0;
}
