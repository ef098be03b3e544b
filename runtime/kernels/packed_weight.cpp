#include "runtime/kernels/packed_weight.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>
#include <utility>

#include "core/format/display.h"
#include "runtime/kernels/chunk.h"

namespace autoglm::kernels {
namespace {

using format::DType;

constexpr int64_t kMaxRows = int64_t{1} << 40;
constexpr int64_t kMaxCols = int64_t{1} << 24;  // sums of as many int8 fit in int32

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

int64_t bytes_of(WeightType type) { return type == WeightType::kF32 ? 4 : 2; }
int64_t bytes_of(ScaleType type) { return type == ScaleType::kF32 ? 4 : 2; }

DType dtype_of(ScaleType type) {
  return type == ScaleType::kF32 ? DType::kF32 : type == ScaleType::kF16 ? DType::kF16 : DType::kBF16;
}
DType dtype_of(WeightType type) {
  return type == WeightType::kF32 ? DType::kF32 : type == WeightType::kF16 ? DType::kF16 : DType::kBF16;
}

/// Byte counts of the three parts, each a multiple of 64; nothing when they do not fit in int64_t.
struct Parts {
  int64_t values = 0, scales = 0, zeros = 0;
  int64_t total() const { return values + scales + zeros; }
};
std::optional<Parts> parts_of(const PackedShape& shape, const WeightView& view) {
  Parts parts;
  if (shape.type != WeightType::kQuantized) {
    if (__builtin_mul_overflow(shape.rows * bytes_of(shape.type), shape.cols, &parts.values)) return std::nullopt;
    return parts;
  }
  const int64_t padded_rows = round_up(shape.rows, kBlockRows);
  int64_t limit = 0;  // no part is larger than 16 bytes for each element
  if (__builtin_mul_overflow(padded_rows * 16, view.packed_cols + 1, &limit)) return std::nullopt;
  parts.values = padded_rows * (view.packed_cols / kChunkCols) * shape.bits * (kVectorBytes / kBlockRows);
  parts.scales = round_up(padded_rows * view.groups * bytes_of(shape.scale_type), kVectorBytes);
  parts.zeros = shape.symmetric ? 0 : round_up(padded_rows * view.groups, kVectorBytes);
  return parts;
}

/// Writes one row of unsigned values u, already at their packed columns, into its lanes.
void write_row(const WeightView& view, int64_t row, const uint8_t* u, std::byte* values) {
  for (int64_t col = 0; col < view.packed_cols; col += 4) {
    uint32_t quad;
    std::memcpy(&quad, u + col, sizeof quad);
    for_each_plane(view, row, col, [&](const BitField& field) {
      const uint32_t mask = ((1u << field.width) - 1) * 0x01010101u;
      uint32_t lane;
      std::memcpy(&lane, values + field.byte, sizeof lane);
      lane = (lane & ~(mask << field.shift)) | (quad >> field.place & mask) << field.shift;
      std::memcpy(values + field.byte, &lane, sizeof lane);
    });
  }
}

/// Memory of `size` bytes, to be given back by munmap; nullptr: there is none.
std::byte* map_zeros(size_t size) {
  // A huge page begins at a multiple of its size, a mapping anywhere: take more, and give back what lies around.
  constexpr size_t kHugePage = 2 << 20;
  const size_t slack = size < kHugePage ? 0 : kHugePage;
  void* const mapping = ::mmap(nullptr, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  auto* memory = static_cast<std::byte*>(mapping);
  if (slack > 0) {
    const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    const auto whole = [](size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; };
    const auto address = reinterpret_cast<uintptr_t>(memory);
    const size_t before = whole(address, kHugePage) - address, used = whole(size, page);
    if (before > 0) ::munmap(memory, before);
    memory += before;
    ::munmap(memory + used, slack - before);  // before < slack, as mappings begin at pages
  }
#ifdef MADV_HUGEPAGE
  ::madvise(memory, size, MADV_HUGEPAGE);  // a hint
#endif
  return memory;
}

}  // namespace

Result<PackedShape> PackedShape::of(const format::QuantArgs& args, DType scale_dtype, int64_t rows, int64_t cols) {
  PackedShape shape{.type = WeightType::kQuantized,
                    .rows = rows,
                    .cols = cols,
                    .bits = args.num_bits,
                    .group_cols = args.strategy == format::Strategy::kGroup ? args.group_size : cols,
                    .symmetric = args.symmetric};
  switch (scale_dtype) {
    case DType::kF32: shape.scale_type = ScaleType::kF32; break;
    case DType::kF16: shape.scale_type = ScaleType::kF16; break;
    case DType::kBF16: shape.scale_type = ScaleType::kBF16; break;
    default: return bad_input(fmt::format("scales of dtype {} cannot be packed", to_string(scale_dtype)));
  }
  if (const auto view = shape.layout(); !view.ok()) return view.status();
  return shape;
}

Result<PackedShape> PackedShape::of(DType dtype, int64_t rows, int64_t cols) {
  PackedShape shape{.rows = rows, .cols = cols};
  switch (dtype) {
    case DType::kF32: shape.type = WeightType::kF32; break;
    case DType::kF16: shape.type = WeightType::kF16; break;
    case DType::kBF16: shape.type = WeightType::kBF16; break;
    default:
      return bad_input(fmt::format("weights of dtype {} cannot be run, only F32, F16 and BF16", to_string(dtype)));
  }
  if (const auto view = shape.layout(); !view.ok()) return view.status();
  return shape;
}

Result<WeightView> PackedShape::layout() const {
  if (rows < 1 || cols < 1 || rows > kMaxRows || cols > kMaxCols) {
    return bad_input(fmt::format("a matrix of [{}, {}] cannot be packed", rows, cols));
  }
  WeightView view{
      .type = type, .scale_type = scale_type, .bits = bits, .rows = rows, .cols = cols, .packed_cols = cols};
  if (type != WeightType::kQuantized) {
    if (type > WeightType::kQuantized || bits != 0 || group_cols != 0) {
      return bad_input("a float matrix has neither bits nor groups");
    }
  } else {
    if (bits < 1 || bits > 8 || group_cols < 1 || scale_type > ScaleType::kBF16) {
      return bad_input(fmt::format("{} bits in groups of {} columns cannot be packed", bits, group_cols));
    }
    const int64_t group = std::min(group_cols, cols);
    const int64_t groups = (cols + group - 1) / group;
    view.group_cols = group;
    view.padded_group_cols = round_up(group, groups == 1 ? kChunkCols : 16);
    view.packed_cols = round_up(groups * view.padded_group_cols, kChunkCols);
    if (view.packed_cols > kMaxCols) return bad_input(fmt::format("{} columns are too many to pack", cols));
    if (view.padded_group_cols % kChunkCols != 0) {
      view.scale_cols = 16;
    } else if (view.padded_group_cols <= kMaxScaleCols) {
      view.scale_cols = view.padded_group_cols;
    } else {
      view.scale_cols = groups == 1 ? kMaxScaleCols : std::gcd(view.padded_group_cols, kMaxScaleCols);
    }
    view.groups = (view.packed_cols + view.scale_cols - 1) / view.scale_cols;
  }
  if (!parts_of(*this, view)) return bad_input(fmt::format("a matrix of [{}, {}] cannot be packed", rows, cols));
  return view;
}

Result<int64_t> PackedShape::bytes() const {
  AUTOGLM_ASSIGN_OR_RETURN(const WeightView view, layout());
  return parts_of(*this, view)->total();
}

void PackedWeight::Unmap::operator()(std::byte* memory) const { ::munmap(memory, size); }

void PackedWeight::attach(std::span<const std::byte> bytes) {
  bytes_ = bytes;
  const Parts parts = *parts_of(shape_, view_);
  view_.values = bytes.data();
  if (is_quantized()) {
    view_.scales = bytes.data() + parts.values;
    if (!shape_.symmetric) view_.zeros = reinterpret_cast<const int8_t*>(bytes.data() + parts.values + parts.scales);
  }
}

Result<PackedWeight> PackedWeight::allocate(const PackedShape& shape) {
  PackedWeight weight;
  AUTOGLM_ASSIGN_OR_RETURN(weight.view_, shape.layout());
  weight.shape_ = shape;
  AUTOGLM_ASSIGN_OR_RETURN(const int64_t bytes, shape.bytes());
  const auto size = static_cast<size_t>(bytes);
  std::byte* const memory = map_zeros(size);
  if (memory == nullptr) return resource_exhausted(fmt::format("no memory for a packed matrix of {} bytes", size));
  weight.owned_ = std::unique_ptr<std::byte, Unmap>(memory, Unmap{size});
  weight.attach({weight.owned_.get(), size});
  return weight;
}

Result<PackedWeight> PackedWeight::pack(const format::QuantizedWeight& weight) {
  AUTOGLM_ASSIGN_OR_RETURN(const PackedShape shape,
                           PackedShape::of(weight.args, weight.scale_dtype, weight.rows, weight.cols));
  AUTOGLM_ASSIGN_OR_RETURN(PackedWeight packed, allocate(shape));
  AUTOGLM_RETURN_IF_ERROR(packed.set_rows(0, weight));
  return packed;
}

Result<PackedWeight> PackedWeight::pack(DType dtype, std::span<const std::byte> bytes, int64_t rows, int64_t cols) {
  AUTOGLM_ASSIGN_OR_RETURN(const PackedShape shape, PackedShape::of(dtype, rows, cols));
  AUTOGLM_ASSIGN_OR_RETURN(PackedWeight packed, allocate(shape));
  if (bytes.size() != packed.bytes_.size()) {
    return bad_input(fmt::format("{} bytes are given, a {} matrix of [{}, {}] has {}", bytes.size(), to_string(dtype),
                                 rows, cols, packed.bytes_.size()));
  }
  AUTOGLM_RETURN_IF_ERROR(packed.set_rows(0, bytes));
  return packed;
}

Result<PackedWeight> PackedWeight::view(const PackedShape& shape, std::span<const std::byte> bytes) {
  PackedWeight weight;
  AUTOGLM_ASSIGN_OR_RETURN(weight.view_, shape.layout());
  weight.shape_ = shape;
  AUTOGLM_ASSIGN_OR_RETURN(const int64_t size, shape.bytes());
  if (static_cast<int64_t>(bytes.size()) != size) {
    return bad_input(fmt::format("a packed matrix of [{}, {}] has {} bytes, but {} are given", shape.rows, shape.cols,
                                 size, bytes.size()));
  }
  if (weight.is_quantized() && reinterpret_cast<uintptr_t>(bytes.data()) % kVectorBytes != 0) {
    return bad_input(fmt::format("a packed matrix must start at a multiple of {} bytes", kVectorBytes));
  }
  weight.attach(bytes);
  return weight;
}

Status PackedWeight::set_rows(int64_t first, std::span<const std::byte> piece) {
  const int64_t row_bytes = is_quantized() ? 0 : shape_.cols * bytes_of(shape_.type);
  if (owned_ == nullptr || row_bytes == 0 || first < 0 || first > shape_.rows) {
    return internal_error(fmt::format("set_rows({}) of a matrix of {} rows that is not its to write", first, rows()));
  }
  const auto size = static_cast<int64_t>(piece.size());
  if (size % row_bytes != 0 || size / row_bytes > shape_.rows - first) {
    return bad_input(fmt::format("{} bytes are no rows {} and later of [{}, {}]", size, first, rows(), cols()));
  }
  if (size > 0) std::memcpy(owned_.get() + first * row_bytes, piece.data(), piece.size());
  return ok_status();
}

Status PackedWeight::set_rows(int64_t first, const format::QuantizedWeight& piece) {
  AUTOGLM_ASSIGN_OR_RETURN(PackedShape shape, PackedShape::of(piece.args, piece.scale_dtype, piece.rows, piece.cols));
  if (owned_ == nullptr || first < 0 || first > rows() || piece.rows > rows() - first) {
    return internal_error(
        fmt::format("set_rows({}+{}) of a matrix of {} rows that is not its to write", first, piece.rows, rows()));
  }
  shape.rows = rows();
  if (shape != shape_) {
    return bad_input(fmt::format("rows {} to {} are quantized otherwise than the rest of the matrix", first,
                                 first + piece.rows - 1));
  }
  const bool per_tensor = piece.args.strategy == format::Strategy::kTensor;
  const int64_t piece_groups = per_tensor ? 1 : piece.args.groups(piece.cols);
  const auto scale_count = static_cast<size_t>(per_tensor ? 1 : piece.rows * piece_groups);
  if (piece.values.size() != static_cast<size_t>(piece.rows * piece.cols) || piece.scales.size() != scale_count ||
      piece.zero_points.size() != (shape.symmetric ? 0 : scale_count)) {
    return internal_error(
        "set_rows: values, scales and zero points are not of the sizes that rows and columns ask for");
  }

  std::byte* const values = owned_.get();
  std::byte* const scales = values + (view_.scales - view_.values);
  const int64_t scale_bytes = bytes_of(shape_.scale_type);
  const DType scale_dtype = dtype_of(shape_.scale_type);
  const int offset = 1 << (shape_.bits - 1);
  std::vector<uint8_t> unsigned_row(static_cast<size_t>(view_.packed_cols), 0);
  for (int64_t i = 0; i < piece.rows; ++i) {
    const int64_t row = first + i;
    const int8_t* q = piece.values.data() + i * piece.cols;
    for (int64_t c = 0; c < piece.cols; ++c) {
      unsigned_row[static_cast<size_t>(packed_column(view_, c))] = static_cast<uint8_t>(q[c] + offset);
    }
    write_row(view_, row, unsigned_row.data(), values);
    for (int64_t g = 0; g < view_.groups; ++g) {
      const int64_t group = std::min(g * view_.scale_cols / view_.padded_group_cols, piece_groups - 1);
      const auto from = static_cast<size_t>(per_tensor ? 0 : i * piece_groups + group);
      const int64_t to = scale_index(view_, row, g * view_.scale_cols);
      format::from_float(scale_dtype, {&piece.scales[from], 1},
                         {scales + to * scale_bytes, static_cast<size_t>(scale_bytes)});
      if (!shape_.symmetric) {
        std::memcpy(values + (reinterpret_cast<const std::byte*>(view_.zeros) - view_.values) + to,
                    &piece.zero_points[from], 1);
      }
    }
  }
  return ok_status();
}

void PackedWeight::row(int64_t row, std::span<float> out) const {
  if (!is_quantized()) {
    const int64_t size = cols() * bytes_of(shape_.type);
    format::to_float(dtype_of(shape_.type), bytes_.subspan(static_cast<size_t>(row * size), static_cast<size_t>(size)),
                     out);
    return;
  }
  const int offset = 1 << (shape_.bits - 1);
  const int64_t scale_bytes = bytes_of(shape_.scale_type);
  std::vector<uint8_t> u(static_cast<size_t>(view_.packed_cols));
  read_row(view_, row, 0, view_.packed_cols, u.data());
  for (int64_t c = 0; c < cols(); ++c) {
    const int64_t col = packed_column(view_, c), at = scale_index(view_, row, col);
    float scale = 0;
    format::to_float(dtype_of(shape_.scale_type), {view_.scales + at * scale_bytes, static_cast<size_t>(scale_bytes)},
                     {&scale, 1});
    const int zero = view_.zeros == nullptr ? 0 : view_.zeros[at];
    out[static_cast<size_t>(c)] = static_cast<float>(u[static_cast<size_t>(col)] - offset - zero) * scale;
  }
}

}  // namespace autoglm::kernels
