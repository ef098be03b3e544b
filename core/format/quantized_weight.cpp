#include "core/format/quantized_weight.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "core/format/display.h"

namespace autoglm::format {
namespace {

bool is_packed(std::string_view format) { return format == kPackQuantized; }

/// Zero points of the tensor strategy stay one I8, the others are packed along the rows.
bool packs_zero_points(const QuantArgs& args, std::string_view format) {
  return is_packed(format) && args.strategy != Strategy::kTensor;
}

Shape scale_shape(const QuantArgs& args, const Shape& shape) {
  return args.strategy == Strategy::kTensor ? Shape{1} : Shape{shape[0], args.groups(shape[1])};
}

/// Every shape in which scales (and plain zero points) of a weight are found, the one we write first.
std::vector<Shape> scale_shapes(const QuantArgs& args, const Shape& shape) {
  std::vector<Shape> shapes = {scale_shape(args, shape)};
  if (args.strategy == Strategy::kTensor) shapes.insert(shapes.end(), {{}, {1, 1}});
  if (args.strategy == Strategy::kChannel) shapes.push_back({shape[0]});
  return shapes;
}

std::span<const std::byte> bytes_of(const std::vector<int8_t>& values) { return std::as_bytes(std::span(values)); }

std::vector<std::byte> pack_values(const QuantizedWeight& weight) {
  const auto cols = static_cast<size_t>(weight.cols);
  const auto words_per_row = static_cast<size_t>(packed_words(weight.cols, weight.args.num_bits));
  std::vector<std::byte> out(static_cast<size_t>(weight.rows) * words_per_row * sizeof(uint32_t));
  std::vector<uint32_t> words(words_per_row);
  for (size_t row = 0; row < static_cast<size_t>(weight.rows); ++row) {
    pack_row(std::span(weight.values).subspan(row * cols, cols), weight.args.num_bits, words);
    std::memcpy(out.data() + row * words_per_row * sizeof(uint32_t), words.data(), words_per_row * sizeof(uint32_t));
  }
  return out;
}

std::vector<std::byte> pack_zero_points(const QuantizedWeight& weight) {
  const auto rows = static_cast<size_t>(weight.rows), groups = static_cast<size_t>(weight.args.groups(weight.cols));
  const auto words_per_column = static_cast<size_t>(packed_words(weight.rows, weight.args.num_bits));
  std::vector<std::byte> out(words_per_column * groups * sizeof(uint32_t));
  std::vector<int8_t> column(rows);
  std::vector<uint32_t> words(words_per_column);
  for (size_t g = 0; g < groups; ++g) {
    for (size_t row = 0; row < rows; ++row) column[row] = weight.zero_points[row * groups + g];
    pack_row(column, weight.args.num_bits, words);
    for (size_t w = 0; w < words_per_column; ++w) {
      std::memcpy(out.data() + (w * groups + g) * sizeof(uint32_t), &words[w], sizeof(uint32_t));
    }
  }
  return out;
}

/// Reads the tensors of one module; the messages name file and tensor.
class ModuleReader {
 public:
  ModuleReader(const Checkpoint& checkpoint, std::string_view module) : checkpoint_(checkpoint), module_(module) {}

  const TensorInfo* find(std::string_view suffix) const { return checkpoint_.find(name(suffix)); }

  Status error(std::string_view suffix, std::string_view what) const {
    const std::string tensor = name(suffix);
    return bad_input(fmt::format("{}: tensor {} {}", display_path(checkpoint_.file_of(tensor)), display(tensor), what));
  }

  /// The tensor, when its dtype and shape are among those given.
  struct Tensor {
    const TensorInfo* info;
    std::span<const std::byte> bytes;
  };
  Result<Tensor> read(std::string_view suffix, std::initializer_list<DType> dtypes,
                      const std::vector<Shape>& shapes) const {
    const TensorInfo* info = find(suffix);
    if (info == nullptr) return error(suffix, "is missing, which quantization_config asks for");
    if (std::find(dtypes.begin(), dtypes.end(), info->dtype) == dtypes.end()) {
      return error(suffix,
                   fmt::format("has dtype {}, but {} is expected", to_string(info->dtype), to_string(*dtypes.begin())));
    }
    if (std::find(shapes.begin(), shapes.end(), info->shape) == shapes.end()) {
      return error(suffix, fmt::format("has shape [{}], but [{}] is expected", fmt::join(info->shape, ", "),
                                       fmt::join(shapes.front(), ", ")));
    }
    AUTOGLM_ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, checkpoint_.bytes(name(suffix)));
    return Tensor{info, bytes};
  }

 private:
  std::string name(std::string_view suffix) const { return fmt::format("{}.{}", module_, suffix); }

  const Checkpoint& checkpoint_;
  std::string_view module_;
};

std::vector<uint32_t> words_at(std::span<const std::byte> bytes, size_t first, size_t count, size_t stride = 1) {
  std::vector<uint32_t> words(count);
  if (stride == 1) {
    if (count > 0) std::memcpy(words.data(), bytes.data() + first * sizeof(uint32_t), count * sizeof(uint32_t));
    return words;
  }
  for (size_t i = 0; i < count; ++i) {
    std::memcpy(&words[i], bytes.data() + (first + i * stride) * sizeof(uint32_t), sizeof(uint32_t));
  }
  return words;
}

/// Rows [first, first + weight.rows) of the matrix whose whole shape is `shape`.
struct RowRange {
  const Shape& shape;
  int64_t first;
};

Status read_values(const ModuleReader& reader, const RowRange& range, std::string_view format,
                   QuantizedWeight& weight) {
  const auto rows = static_cast<size_t>(weight.rows), cols = static_cast<size_t>(weight.cols);
  const auto first = static_cast<size_t>(range.first);
  if (!is_packed(format)) {
    AUTOGLM_ASSIGN_OR_RETURN(const ModuleReader::Tensor tensor, reader.read("weight", {DType::kI8}, {range.shape}));
    weight.values.resize(rows * cols);
    if (!weight.values.empty()) std::memcpy(weight.values.data(), tensor.bytes.data() + first * cols, rows * cols);
    const auto [least, most] = std::minmax_element(weight.values.begin(), weight.values.end());
    if (!weight.values.empty() && (*least < weight.args.q_min() || *most > weight.args.q_max())) {
      return reader.error("weight",
                          fmt::format("has values from {} to {}, beyond {} bits", *least, *most, weight.args.num_bits));
    }
    return ok_status();
  }
  const int64_t words_per_row = packed_words(weight.cols, weight.args.num_bits);
  AUTOGLM_ASSIGN_OR_RETURN(const ModuleReader::Tensor tensor,
                           reader.read("weight_packed", {DType::kI32}, {{range.shape[0], words_per_row}}));
  if (reader.find("weight_shape") != nullptr) {
    AUTOGLM_ASSIGN_OR_RETURN(const ModuleReader::Tensor stored,
                             reader.read("weight_shape", {DType::kI64, DType::kI32}, {{2}}));
    int64_t sizes[2] = {};
    if (stored.info->dtype == DType::kI64) {
      std::memcpy(sizes, stored.bytes.data(), sizeof sizes);
    } else {
      int32_t narrow[2];
      std::memcpy(narrow, stored.bytes.data(), sizeof narrow);
      std::copy(narrow, narrow + 2, sizes);
    }
    if (sizes[0] != range.shape[0] || sizes[1] != range.shape[1]) {
      return reader.error("weight_shape", fmt::format("says [{}, {}], but [{}] is expected", sizes[0], sizes[1],
                                                      fmt::join(range.shape, ", ")));
    }
  }
  weight.values.resize(rows * cols);
  const auto stride = static_cast<size_t>(words_per_row);
  for (size_t row = 0; row < rows; ++row) {
    unpack_row(words_at(tensor.bytes, (first + row) * stride, stride), weight.args.num_bits,
               std::span(weight.values).subspan(row * cols, cols));
  }
  return ok_status();
}

Status read_scales(const ModuleReader& reader, const RowRange& range, QuantizedWeight& weight) {
  const bool per_tensor = weight.args.strategy == Strategy::kTensor;
  const int64_t groups = weight.args.groups(weight.cols);
  AUTOGLM_ASSIGN_OR_RETURN(
      const ModuleReader::Tensor tensor,
      reader.read("weight_scale", {DType::kBF16, DType::kF16, DType::kF32}, scale_shapes(weight.args, range.shape)));
  weight.scale_dtype = tensor.info->dtype;
  weight.scales.resize(per_tensor ? 1 : static_cast<size_t>(weight.rows * groups));
  const size_t skipped = per_tensor ? 0 : static_cast<size_t>(range.first * groups * size_of(weight.scale_dtype));
  to_float(weight.scale_dtype, tensor.bytes.subspan(skipped), weight.scales);
  const auto bad = std::find_if(weight.scales.begin(), weight.scales.end(), [](float s) { return !std::isfinite(s); });
  if (bad != weight.scales.end()) {
    const int64_t at = bad - weight.scales.begin() + (per_tensor ? 0 : range.first * groups);
    return reader.error("weight_scale", fmt::format("is {} at [{}, {}]", std::isnan(*bad) ? "NaN" : "infinite",
                                                    at / groups, at % groups));
  }
  return ok_status();
}

/// Zero points as their format stores them, or as plain I8 [out, groups] as older releases of llm-compressor did.
Status read_zero_points(const ModuleReader& reader, const RowRange& range, std::string_view format,
                        QuantizedWeight& weight) {
  constexpr std::string_view kName = "weight_zero_point";
  const QuantArgs& args = weight.args;
  const TensorInfo* info = reader.find(kName);
  if (args.symmetric && info == nullptr) return ok_status();  // some releases store the zeros of symmetric schemes

  const auto rows = static_cast<size_t>(weight.rows), first = static_cast<size_t>(range.first);
  const auto groups = static_cast<size_t>(args.groups(weight.cols));
  weight.zero_points.resize(weight.scales.size());
  if (packs_zero_points(args, format) && (info == nullptr || info->dtype != DType::kI8)) {
    const Shape packed = {packed_words(range.shape[0], args.num_bits), static_cast<int64_t>(groups)};
    AUTOGLM_ASSIGN_OR_RETURN(const ModuleReader::Tensor tensor, reader.read(kName, {DType::kI32}, {packed}));
    // Streams are entered at a multiple of 32 rows, where a word starts.
    const size_t start = first / 32 * 32;
    std::vector<int8_t> column(first + rows - start);
    const auto count = static_cast<size_t>(packed_words(static_cast<int64_t>(column.size()), args.num_bits));
    const size_t first_word = start / 32 * static_cast<size_t>(args.num_bits);
    for (size_t g = 0; g < groups; ++g) {
      unpack_row(words_at(tensor.bytes, first_word * groups + g, count, groups), args.num_bits, column);
      for (size_t row = 0; row < rows; ++row) weight.zero_points[row * groups + g] = column[first - start + row];
    }
  } else {
    AUTOGLM_ASSIGN_OR_RETURN(const ModuleReader::Tensor tensor,
                             reader.read(kName, {DType::kI8}, scale_shapes(args, range.shape)));
    const size_t skipped = args.strategy == Strategy::kTensor ? 0 : first * groups;
    if (!weight.zero_points.empty()) {
      std::memcpy(weight.zero_points.data(), tensor.bytes.data() + skipped, weight.zero_points.size());
    }
    for (const int8_t zero : weight.zero_points) {
      if (zero < args.q_min() || zero > args.q_max()) {
        return reader.error(kName, fmt::format("has the value {}, beyond {} bits", zero, args.num_bits));
      }
    }
  }
  if (args.symmetric) {
    if (std::any_of(weight.zero_points.begin(), weight.zero_points.end(), [](int8_t zero) { return zero != 0; })) {
      return reader.error(kName, "is not zero, but quantization_config calls the weight symmetric");
    }
    weight.zero_points.clear();
  }
  return ok_status();
}

}  // namespace

std::vector<TensorInfo> stored_layout(const QuantArgs& args, const Shape& shape, DType scale_dtype,
                                      std::string_view module, std::string_view format) {
  std::vector<TensorInfo> layout;
  const auto add = [&](std::string_view suffix, DType dtype, Shape tensor_shape) {
    const int64_t nbytes = element_count(tensor_shape).value_or(0) * size_of(dtype);
    layout.push_back({.name = fmt::format("{}.{}", module, suffix),
                      .dtype = dtype,
                      .shape = std::move(tensor_shape),
                      .nbytes = nbytes});
  };
  if (is_packed(format)) {
    add("weight_packed", DType::kI32, {shape[0], packed_words(shape[1], args.num_bits)});
  } else {
    add("weight", DType::kI8, shape);
  }
  add("weight_scale", scale_dtype, scale_shape(args, shape));
  if (!args.symmetric) {
    if (packs_zero_points(args, format)) {
      add("weight_zero_point", DType::kI32, {packed_words(shape[0], args.num_bits), args.groups(shape[1])});
    } else {
      add("weight_zero_point", DType::kI8, scale_shape(args, shape));
    }
  }
  if (is_packed(format)) add("weight_shape", DType::kI64, {2});
  return layout;
}

float smallest_scale(DType dtype) { return dtype == DType::kF16 ? 0x1p-24f : std::numeric_limits<float>::min(); }

float nearest_scale(DType dtype, float scale) {
  const float largest = dtype == DType::kF16 ? 65504.0f : dtype == DType::kBF16 ? 0x1.FEp127f : 0x1.FFFFFEp127f;
  return std::clamp(rounded_to(dtype, scale), smallest_scale(dtype), largest);
}

std::vector<StoredTensor> encode(const QuantizedWeight& weight, std::string_view module, std::string_view format) {
  assert(weight.values.size() == static_cast<size_t>(weight.rows * weight.cols));
  const Shape shape = {weight.rows, weight.cols};
  std::vector<StoredTensor> tensors;
  for (TensorInfo& info : stored_layout(weight.args, shape, weight.scale_dtype, module, format)) {
    StoredTensor tensor{.name = std::move(info.name), .dtype = info.dtype, .shape = std::move(info.shape), .bytes = {}};
    if (tensor.name.ends_with(".weight_packed")) {
      tensor.bytes = pack_values(weight);
    } else if (tensor.name.ends_with(".weight")) {
      tensor.bytes.assign(bytes_of(weight.values).begin(), bytes_of(weight.values).end());
    } else if (tensor.name.ends_with(".weight_scale")) {
      tensor.bytes.resize(static_cast<size_t>(info.nbytes));
      from_float(weight.scale_dtype, weight.scales, tensor.bytes);
    } else if (tensor.name.ends_with(".weight_shape")) {
      tensor.bytes.resize(static_cast<size_t>(info.nbytes));
      std::memcpy(tensor.bytes.data(), shape.data(), tensor.bytes.size());
    } else if (packs_zero_points(weight.args, format)) {
      tensor.bytes = pack_zero_points(weight);
    } else {
      tensor.bytes.assign(bytes_of(weight.zero_points).begin(), bytes_of(weight.zero_points).end());
    }
    assert(tensor.bytes.size() == static_cast<size_t>(info.nbytes));
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

Result<QuantizedWeight> decode_rows(const Checkpoint& checkpoint, std::string_view module, const QuantScheme& scheme,
                                    std::string_view format, const Shape& shape, int64_t first, int64_t count) {
  const ModuleReader reader(checkpoint, module);
  const bool shape_ok = shape.size() == 2 && shape[0] >= 0 && shape[1] >= 0 && element_count(shape).has_value();
  if (!scheme.weights || !shape_ok || first < 0 || count < 0 || first > shape[0] || count > shape[0] - first) {
    return internal_error(
        fmt::format("decode_rows({}): rows {}+{} of [{}]", display(module), first, count, fmt::join(shape, ", ")));
  }
  if (!is_packed(format) && format != kIntQuantized && format != kNaiveQuantized) {
    return bad_input(fmt::format("module {}: format {} is not supported", display(module), display(format)));
  }
  if (reader.find("weight_g_idx") != nullptr) {
    return reader.error("weight_g_idx", "orders columns by activation (actorder group), which is not supported");
  }
  QuantizedWeight weight;
  weight.args = *scheme.weights;
  weight.rows = count;
  weight.cols = shape[1];
  if (weight.args.strategy == Strategy::kGroup && shape[1] % weight.args.group_size != 0) {
    return reader.error(
        is_packed(format) ? "weight_packed" : "weight",
        fmt::format("has {} columns, which group_size {} does not divide", shape[1], weight.args.group_size));
  }
  const RowRange range{shape, first};
  AUTOGLM_RETURN_IF_ERROR(read_values(reader, range, format, weight));
  AUTOGLM_RETURN_IF_ERROR(read_scales(reader, range, weight));
  AUTOGLM_RETURN_IF_ERROR(read_zero_points(reader, range, format, weight));
  return weight;
}

Result<QuantizedWeight> decode(const Checkpoint& checkpoint, std::string_view module, const QuantScheme& scheme,
                               std::string_view format, const Shape& shape) {
  return decode_rows(checkpoint, module, scheme, format, shape, 0, shape.empty() ? 0 : shape[0]);
}

void dequantize(const QuantizedWeight& weight, std::span<float> out) {
  assert(out.size() == weight.values.size());
  const auto rows = static_cast<size_t>(weight.rows), cols = static_cast<size_t>(weight.cols);
  const auto groups = static_cast<size_t>(weight.args.groups(weight.cols));
  const size_t group_cols =
      weight.args.strategy == Strategy::kGroup ? static_cast<size_t>(weight.args.group_size) : cols;
  for (size_t row = 0; row < rows; ++row) {
    for (size_t g = 0; g < groups; ++g) {
      const size_t scale_index = weight.args.strategy == Strategy::kTensor ? 0 : row * groups + g;
      const float scale = weight.scales[scale_index];
      const int zero = weight.zero_points.empty() ? 0 : weight.zero_points[scale_index];
      const size_t begin = row * cols + g * group_cols, end = row * cols + std::min(cols, (g + 1) * group_cols);
      for (size_t i = begin; i < end; ++i) out[i] = static_cast<float>(weight.values[i] - zero) * scale;
    }
  }
}

}  // namespace autoglm::format
