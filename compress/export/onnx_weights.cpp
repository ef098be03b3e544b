#include "compress/export/onnx_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/base/progress.h"
#include "core/format/display.h"
#include "core/format/quantized_weight.h"

namespace autoglm::exports {
namespace {

using format::DType;
using format::InputQuant;
using format::Member;
using format::ModuleSpec;
using format::QuantArgs;
using format::Strategy;
using onnx::TensorProto;

constexpr int64_t kPieceValues = 1 << 22;
constexpr int64_t kWholeBytes = 8;          // rows that fill whole bytes at any width, in any order
constexpr int64_t kLeastNBitsBlock = 16;    // of MatMulNBits; powers of two
constexpr int64_t kMostTwoBitBlock = 256;   // of onnxruntime's MatMulNBits at 2 bits
constexpr float kHalfPrecision = 0x1p-10F;  // relative, of what FLOAT16 rounds
constexpr int64_t kMostChannelBlock = 128;  // for a scale that a whole row has

/// Of a float weight or scale, which StoredModel has checked.
int32_t onnx_type(DType dtype) {
  switch (dtype) {
    case DType::kF16: return TensorProto::FLOAT16;
    case DType::kBF16: return TensorProto::BFLOAT16;
    case DType::kF64: return TensorProto::DOUBLE;
    default: return TensorProto::FLOAT;
  }
}

DType float_type(int32_t type) {
  switch (type) {
    case TensorProto::FLOAT16: return DType::kF16;
    case TensorProto::BFLOAT16: return DType::kBF16;
    case TensorProto::DOUBLE: return DType::kF64;
    default: return DType::kF32;
  }
}

int32_t integer_type(int bits) {
  return bits == 2 ? TensorProto::INT2 : bits == 4 ? TensorProto::INT4 : TensorProto::INT8;
}

/// Under which the matrix of a linear is stored: a head that is the embedding stands beside it.
std::string stored_name(const ModuleSpec& module) {
  return module.role == format::Role::kEmbedding ? "lm_head" : module.name;
}

bool has_eight_bits(const InputQuant& quant) { return quant.args.num_bits == 8; }

/// The block of MatMulNBits for a weight of `cols` columns; 0: it has none.
int64_t nbits_block(const QuantArgs& args, int64_t cols) {
  if (args.strategy == Strategy::kGroup) {
    const bool is_power = (args.group_size & (args.group_size - 1)) == 0;
    const int64_t most = args.num_bits <= 2 ? kMostTwoBitBlock : INT64_MAX;
    return is_power && args.group_size >= kLeastNBitsBlock && args.group_size <= most ? args.group_size : 0;
  }
  int64_t block = kMostChannelBlock;
  while (block > kLeastNBitsBlock && cols % block != 0) block /= 2;
  return block;
}

/// Rows of `groups` scales or zero points as the file has them, `width` in each: as they are, or repeated for blocks
/// that are smaller than a group.
template <typename T>
std::vector<T> repeated(std::span<const T> rows, int64_t groups, int64_t width) {
  std::vector<T> out;
  for (size_t i = 0; i < rows.size(); i += static_cast<size_t>(groups)) {
    for (int64_t j = 0; j < width; ++j) out.push_back(rows[i + static_cast<size_t>(j * groups / width)]);
  }
  return out;
}

/// The block of a weight in TensorRT, which knows INT4 in blocks alone; 0: it has none.
int64_t tensorrt_block(const QuantArgs& args, int64_t cols) {
  const int64_t group = args.strategy == Strategy::kGroup ? args.group_size : cols;
  for (const int64_t block : {int64_t{128}, int64_t{64}}) {
    if (group % block == 0) return block;
  }
  return 0;
}

/// What TensorRT's rules of explicit quantization say to a weight and its input.
Status check_tensorrt(const ModuleSpec& module, const QuantArgs& args, const InputQuant* input) {
  const auto refused = [&](std::string_view what, std::string_view instead) {
    return invalid_argument(
        fmt::format("tensorrt: {} {}; compress with {}", format::display(module.name), what, instead));
  };
  if (!args.symmetric)
    return refused("has zero points, and TensorRT's quantization is symmetric", "a symmetric scheme");
  if (args.num_bits > 4 && args.strategy == Strategy::kGroup) {
    return refused(fmt::format("has groups of {} bits, and TensorRT has blocks for INT4 alone", args.num_bits),
                   "int8 or int4-g128");
  }
  if (args.num_bits <= 4 && tensorrt_block(args, module.shape[1]) == 0) {
    return refused("has scales for other than multiples of 64 columns, TensorRT's blocks of INT4",
                   "int4-g128, or int8");
  }
  if (args.num_bits <= 4 && module.shape[0] % 2 != 0) {
    return refused("has an odd number of rows, which INT4 does not hold", "int8");
  }
  if (input == nullptr) return ok_status();
  if (input->args.dynamic) return refused("finds a scale for each token, and TensorRT's are constant", "w8a8-static");
  if (!input->args.symmetric || input->zero_point != 0) {
    return refused("has a zero point for its input, and TensorRT's quantization is symmetric", "w8a8-static");
  }
  if (args.num_bits <= 4 || input->args.num_bits != 8) {
    return refused("has activations or weights of fewer than 8 bits where both are quantized", "w8a8-static");
  }
  return ok_status();
}

/// A static scale becomes a constant of the type that is computed in.
Status check_float16(const ModuleSpec& module, const InputQuant& input) {
  const float rounded = format::rounded_to(DType::kF16, input.scale);
  if (input.args.dynamic || std::abs(rounded - input.scale) <= kHalfPrecision * input.scale) return ok_status();
  return invalid_argument(fmt::format("{}: the scale {} of its input is beyond what FLOAT16 holds; give --type fp32",
                                      format::display(module.name), input.scale));
}

}  // namespace

Result<OnnxWeights> OnnxWeights::plan(const format::StoredModel& model, const OnnxTarget& target) {
  OnnxWeights out(model, target);
  AUTOGLM_ASSIGN_OR_RETURN(out.inputs_, format::quantized_inputs(model));
  for (const ModuleSpec& module : model.layout.modules()) {
    const auto* scheme = model.scheme_of(module);
    if (scheme == nullptr) continue;
    const auto found = out.inputs_.find(&module);
    const InputQuant* input = found != out.inputs_.end() ? &found->second : nullptr;
    if (target.tensorrt) AUTOGLM_RETURN_IF_ERROR(check_tensorrt(module, *scheme->weights, input));
    if (target.compute == TensorProto::FLOAT16 && input != nullptr) {
      AUTOGLM_RETURN_IF_ERROR(check_float16(module, *input));
    }
  }
  return out;
}

size_t OnnxWeights::add_tensor(OnnxTensor tensor) {
  tensors_.push_back(std::move(tensor));
  return tensors_.size() - 1;
}

void OnnxWeights::add_quantized(QuantizedItem item, OnnxTensor values, OnnxTensor scales) {
  item.values = add_tensor(std::move(values));
  item.scales = add_tensor(std::move(scales));
  quantized_.push_back(item);
}

/// A float tensor of the model as it is, or lying on its side; the index of the one that is there already.
size_t OnnxWeights::add_float(const ModuleSpec& module, Member member, bool transposed) {
  const std::string name = format::tensor_name(module, member);
  const auto known = std::find_if(tensors_.begin(), tensors_.end(), [&](const auto& one) { return one.name == name; });
  if (known != tensors_.end()) return static_cast<size_t>(known - tensors_.begin());
  const DType dtype = model_->checkpoint.find(name)->dtype;
  const format::Shape shape = member == Member::kBias ? format::Shape{module.shape[0]} : module.shape;
  OnnxTensor tensor{.name = name,
                    .type = onnx_type(dtype),
                    .shape = shape,
                    .rows = shape[0],
                    .cols = shape.size() > 1 ? shape[1] : 1,
                    .bits = static_cast<int>(format::size_of(dtype)) * 8,
                    .transposed = transposed};
  tensor.stride = tensor.cols;
  if (transposed) std::swap(tensor.shape[0], tensor.shape[1]);
  floats_.push_back({&module, member, add_tensor(std::move(tensor))});
  return floats_.back().tensor;
}

std::string OnnxWeights::vector(OnnxGraph& graph, const ModuleSpec& module, Member member) {
  const OnnxTensor& tensor = tensors_[add_float(module, member, false)];
  return graph.cast(tensor.name, tensor.type, TensorProto::FLOAT);
}

DType OnnxWeights::scale_dtype(const ModuleSpec& module) const {
  return model_->checkpoint.find(module.name + ".weight_scale")->dtype;
}

/// The bits of the file's integers: the next width that ONNX has, 8 where `run` of fewer would not fill bytes.
int OnnxWeights::container(const QuantArgs& args, int64_t run) {
  int bits = args.num_bits > 4 ? 8 : args.num_bits > 2 || target_.tensorrt ? 4 : 2;
  if (run * bits % 8 != 0) bits = 8;
  if (bits != args.num_bits) ++widened_;
  return bits;
}

OnnxTensor OnnxWeights::scale_tensor(const ModuleSpec& module, const std::string& name, const QuantArgs& args) const {
  const bool whole = args.strategy == Strategy::kTensor;
  const int64_t groups = args.groups(module.shape[1]);
  // Constants, which a Cast would hide from TensorRT.
  const DType dtype = !target_.tensorrt                 ? scale_dtype(module)
                      : compute() == TensorProto::FLOAT ? DType::kF32
                                                        : DType::kF16;
  return {.name = name + ".weight_scale",
          .type = onnx_type(dtype),
          .rows = whole ? 1 : module.shape[0],
          .cols = groups,
          .stride = groups,
          .bits = static_cast<int>(format::size_of(dtype)) * 8};
}

std::string OnnxWeights::embed(OnnxGraph& graph, const std::string& ids) {
  const ModuleSpec& module = model_->embedding();
  if (const auto* scheme = model_->scheme_of(module)) {
    if (!target_.tensorrt) return quantized_embedding(graph, *scheme->weights, ids);
    return graph.add("Gather", {dequantized(graph, module, module.name, *scheme->weights, Side::kRows), ids});
  }
  const OnnxTensor& tensor = tensors_[add_float(module, Member::kWeight, false)];
  return graph.cast(graph.add("Gather", {tensor.name, ids}), tensor.type, compute());
}

std::string OnnxWeights::quantized_embedding(OnnxGraph& graph, const QuantArgs& args, const std::string& ids) {
  const ModuleSpec& module = model_->embedding();
  const int64_t rows = module.shape[0], cols = module.shape[1], groups = args.groups(cols);
  const int bits = container(args, cols);
  QuantizedItem item{.module = &module, .block = cols / groups};
  OnnxTensor values{.name = module.name + ".weight_quantized",
                    .type = bits == 8 ? TensorProto::INT8 : TensorProto::UINT8,
                    .shape = {rows, cols * bits / 8},
                    .rows = rows,
                    .cols = cols,
                    .stride = cols,
                    .bits = bits,
                    .offset = bits == 8 ? 0 : 1 << (bits - 1)};
  std::string q = graph.add("Gather", {values.name, ids});
  if (bits < 8) {
    OnnxGraph::Values parts;
    graph.need(18, "integers of the embedding in packed bytes (BitwiseAnd)");
    const std::string mask = graph.byte((1 << bits) - 1);
    for (int shift = 0; shift < 8; shift += bits) {
      std::string part = q;
      if (shift > 0) part = graph.add("BitShift", {part, graph.byte(shift)}, {{"direction", std::string("RIGHT")}});
      part = graph.add("BitwiseAnd", {part, mask});
      parts.push_back(graph.add("Unsqueeze", {part, graph.ints({-1})}));
    }
    q = graph.add("Reshape", {graph.add("Concat", parts, {{"axis", int64_t{-1}}}), graph.ints({0, 0, cols})});
  }
  q = graph.add("Cast", {q}, {{"to", int64_t{TensorProto::FLOAT}}});
  if (bits < 8) q = graph.add("Sub", {q, graph.scalar(static_cast<float>(values.offset))});

  OnnxTensor scales = scale_tensor(module, module.name, args);
  scales.shape = {scales.rows, groups};
  const bool whole = args.strategy == Strategy::kTensor;
  const auto rows_of = [&](const std::string& name, int32_t type) {
    const std::string found = whole ? name : graph.add("Gather", {name, ids});
    const std::string floats = graph.cast(found, type, TensorProto::FLOAT);
    return groups == 1 ? floats : graph.add("Unsqueeze", {floats, graph.ints({-1})});
  };
  if (groups > 1) q = graph.add("Reshape", {q, graph.ints({0, 0, groups, cols / groups})});
  if (!args.symmetric) {
    OnnxTensor zeros = scales;
    zeros.name = module.name + ".weight_zero_point";
    zeros.type = TensorProto::INT8;
    zeros.bits = 8;
    q = graph.add("Sub", {q, rows_of(zeros.name, zeros.type)});
    item.zeros = add_tensor(std::move(zeros));
  }
  q = graph.add("Mul", {q, rows_of(scales.name, scales.type)});
  add_quantized(item, std::move(values), std::move(scales));
  if (groups > 1) q = graph.add("Reshape", {q, graph.ints({0, 0, cols})});
  return graph.cast(q, TensorProto::FLOAT, compute());
}

std::string OnnxWeights::linear(OnnxGraph& graph, const ModuleSpec& module, const std::string& x) {
  const auto* scheme = model_->scheme_of(module);
  const auto input = inputs_.find(&module);
  values_read_.emplace(module.name, x);
  std::string y;
  if (scheme == nullptr) {
    const bool tied = module.role == format::Role::kEmbedding;
    const OnnxTensor& tensor = tensors_[add_float(module, Member::kWeight, !tied)];
    if (module.role == format::Role::kRouter) {
      const std::string weight = graph.cast(tensor.name, tensor.type, TensorProto::FLOAT);
      return graph.add("MatMul", {graph.cast(x, compute(), TensorProto::FLOAT), weight});
    }
    std::string weight = graph.cast(tensor.name, tensor.type, compute());
    if (tied) weight = graph.add("Transpose", {weight}, {{"perm", std::vector<int64_t>{1, 0}}});
    y = graph.add("MatMul", {x, weight});
  } else if (input != inputs_.end()) {
    const QuantArgs& args = *scheme->weights;
    QuantizedInput& quantized_x = quantized(graph, x, input->second);
    const bool integers = !quantized_x.is_pair && has_eight_bits(input->second) && input->second.args.symmetric &&
                          args.symmetric && args.num_bits > 4 && args.strategy != Strategy::kGroup;
    y = integers ? integer_matmul(graph, module, args, quantized_x)
                 : graph.add("MatMul", {floats_of(graph, quantized_x),
                                        dequantized(graph, module, stored_name(module), args, Side::kColumns,
                                                    target_.unsigned_weights && quantized_x.is_pair)});
  } else if (target_.matmul_nbits && nbits_block(*scheme->weights, module.shape[1]) > 0) {
    y = matmul_nbits(graph, module, *scheme->weights, x);
  } else {
    y = graph.add("MatMul", {x, dequantized(graph, module, stored_name(module), *scheme->weights, Side::kColumns)});
  }
  if (!module.has_bias) return y;
  const OnnxTensor& bias = tensors_[add_float(module, Member::kBias, false)];
  return graph.add("Add", {y, graph.cast(bias.name, bias.type, compute())});
}

/// DequantizeLinear of the weight, [out, in] (Side::kRows) or [in, out], under the name `name`.
std::string OnnxWeights::dequantized(OnnxGraph& graph, const ModuleSpec& module, const std::string& name,
                                     const QuantArgs& args, Side side, bool is_unsigned) {
  const int64_t rows = module.shape[0], cols = module.shape[1];
  const bool lying = side == Side::kColumns;
  const int bits = container(args, lying ? rows : cols);
  is_unsigned = is_unsigned && bits == 8;
  const bool in_blocks = args.strategy == Strategy::kGroup || (target_.tensorrt && bits < 8);
  const bool whole = args.strategy == Strategy::kTensor && !in_blocks;
  const int64_t block = !in_blocks ? cols : target_.tensorrt ? tensorrt_block(args, cols) : args.group_size;
  QuantizedItem item{.module = &module, .block = block};
  OnnxTensor values{.name = name + ".weight_quantized",
                    .type = is_unsigned ? int32_t{TensorProto::UINT8} : integer_type(bits),
                    .shape = lying ? format::Shape{cols, rows} : module.shape,
                    .rows = rows,
                    .cols = cols,
                    .stride = cols,
                    .bits = bits,
                    .transposed = lying,
                    .offset = is_unsigned ? 128 : 0};
  OnnxTensor scales = scale_tensor(module, name, args);
  if (in_blocks) {
    scales.rows = rows;
    scales.cols = scales.stride = cols / block;
    scales.transposed = lying;
  }
  scales.shape = whole        ? format::Shape{}
                 : !in_blocks ? format::Shape{rows}
                 : lying      ? format::Shape{scales.cols, rows}
                              : format::Shape{rows, scales.cols};
  if (in_blocks || bits < 8) graph.need(21, "blocks of scales and INT4");
  if (bits == 2) graph.need(25, "INT2");
  if (compute() != TensorProto::FLOAT) graph.need(19, "scales of 16 bits");
  OnnxGraph::Values inputs = {values.name, graph.cast(scales.name, scales.type, compute())};
  if (!args.symmetric || is_unsigned) {
    OnnxTensor zeros = scales;
    zeros.name = name + ".weight_zero_point";
    zeros.type = values.type;
    zeros.bits = bits;
    zeros.offset = values.offset;
    inputs.push_back(zeros.name);
    item.zeros = add_tensor(std::move(zeros));
  }
  OnnxAttributes attributes;
  if (!whole) attributes.emplace_back("axis", int64_t{lying != in_blocks});
  if (in_blocks) attributes.emplace_back("block_size", block);
  add_quantized(item, std::move(values), std::move(scales));
  return graph.add("DequantizeLinear", inputs, attributes);
}

std::string OnnxWeights::matmul_nbits(OnnxGraph& graph, const ModuleSpec& module, const QuantArgs& args,
                                      const std::string& x) {
  const int64_t rows = module.shape[0], cols = module.shape[1];
  const int bits = container(args, kWholeBytes);
  const int64_t block = nbits_block(args, cols), blocks = (cols + block - 1) / block;
  QuantizedItem item{.module = &module, .block = block};
  OnnxTensor values{.name = stored_name(module) + ".weight_quantized",
                    .type = TensorProto::UINT8,
                    .shape = {rows, blocks, block * bits / 8},
                    .rows = rows,
                    .cols = cols,
                    .stride = blocks * block,
                    .bits = bits,
                    .offset = 1 << (bits - 1)};
  OnnxTensor scales = scale_tensor(module, stored_name(module), args);
  scales.rows = rows;
  scales.cols = scales.stride = blocks;
  scales.shape = {rows, blocks};
  OnnxGraph::Values inputs = {x, values.name, graph.cast(scales.name, scales.type, compute())};
  if (!args.symmetric) {
    const int64_t bytes = (blocks * bits + 7) / 8;
    OnnxTensor zeros = values;
    zeros.name = stored_name(module) + ".weight_zero_point";
    zeros.shape = {rows, bytes};
    zeros.cols = blocks;
    zeros.stride = bytes * 8 / bits;
    inputs.push_back(zeros.name);
    item.zeros = add_tensor(std::move(zeros));
  }
  add_quantized(item, std::move(values), std::move(scales));
  return graph.add_contrib(
      "MatMulNBits", inputs,
      {{"K", cols}, {"N", rows}, {"bits", int64_t{bits}}, {"block_size", block}, {"accuracy_level", int64_t{4}}});
}

/// Integers times integers, scaled once at the end.
std::string OnnxWeights::integer_matmul(OnnxGraph& graph, const ModuleSpec& module, const QuantArgs& args,
                                        const QuantizedInput& input) {
  const int64_t rows = module.shape[0], cols = module.shape[1];
  if (args.num_bits != 8) ++widened_;
  QuantizedItem item{.module = &module, .block = cols};
  OnnxTensor values{.name = stored_name(module) + ".weight_quantized",
                    .type = target_.unsigned_weights ? TensorProto::UINT8 : TensorProto::INT8,
                    .shape = {cols, rows},
                    .rows = rows,
                    .cols = cols,
                    .transposed = true,
                    .offset = target_.unsigned_weights ? 128 : 0};
  OnnxTensor scales = scale_tensor(module, stored_name(module), args);
  scales.shape = {scales.rows};
  std::string integers = input.integers;
  if (target_.unsigned_inputs) integers = graph.add("Add", {integers, graph.scalar(128.0F)});
  const int64_t type = target_.unsigned_inputs ? TensorProto::UINT8 : TensorProto::INT8;
  OnnxGraph::Values inputs = {graph.add("Cast", {integers}, {{"to", type}}), values.name};
  if (target_.unsigned_inputs || target_.unsigned_weights) {
    inputs.push_back(target_.unsigned_inputs ? graph.byte(128) : graph.signed_byte(0));
    inputs.push_back(target_.unsigned_weights ? graph.byte(128) : graph.signed_byte(0));
  }
  std::string y = graph.add("Cast", {graph.add("MatMulInteger", inputs)}, {{"to", int64_t{TensorProto::FLOAT}}});
  y = graph.add("Mul", {graph.add("Mul", {y, input.scale}), graph.cast(scales.name, scales.type, TensorProto::FLOAT)});
  add_quantized(item, std::move(values), std::move(scales));
  return graph.cast(y, TensorProto::FLOAT, compute());
}

/// One for all linears that read `x` alike. Static scales of 8 bits: for a QuantizeLinear/DequantizeLinear pair; others
/// as compressed-tensors computes it (quantization/utils/helpers.py, calculate_qparams).
OnnxWeights::QuantizedInput& OnnxWeights::quantized(OnnxGraph& graph, const std::string& x, const InputQuant& quant) {
  const auto known = std::find_if(quantized_inputs_.begin(), quantized_inputs_.end(),
                                  [&](const auto& one) { return one.x == x && one.quant == quant; });
  if (known != quantized_inputs_.end()) return *known;
  QuantizedInput out{.x = x, .quant = quant, .is_pair = !quant.args.dynamic && has_eight_bits(quant)};
  if (out.is_pair) {
    out.scale = graph.scalar(quant.scale, compute());
    const int zero = static_cast<int>(quant.zero_point);
    out.zero = target_.unsigned_inputs ? graph.byte(zero + 128) : graph.signed_byte(zero);
    out.integers = graph.add("QuantizeLinear", {x, out.scale, out.zero});
    if (compute() != TensorProto::FLOAT) graph.need(19, "scales of 16 bits");
    return quantized_inputs_.emplace_back(std::move(out));
  }
  const std::string floats = graph.cast(x, compute(), TensorProto::FLOAT);
  const auto q_min = static_cast<float>(quant.args.q_min()), q_max = static_cast<float>(quant.args.q_max());
  const std::string least = graph.scalar(q_min), most = graph.scalar(q_max), zero = graph.scalar(0.0F);
  if (!quant.args.dynamic) {
    out.scale = graph.scalar(quant.scale);
    if (quant.zero_point != 0) out.zero = graph.scalar(quant.zero_point);
  } else {
    const auto end = [&](std::string_view reduce, std::string_view with) {  // zero must be representable
      return graph.add(with, {graph.reduce(reduce, floats), zero});
    };
    const std::string low = end("ReduceMin", "Min"), high = end("ReduceMax", "Max");
    const float range = q_max - q_min;
    const std::string width =
        quant.args.symmetric ? graph.add("Max", {graph.add("Neg", {low}), high}) : graph.add("Sub", {high, low});
    const std::string scale = graph.add("Div", {width, graph.scalar(quant.args.symmetric ? range / 2 : range)});
    out.scale = graph.add("Where", {graph.add("Equal", {scale, zero}), graph.scalar(0x1p-23F), scale});
    if (!quant.args.symmetric) {
      const std::string raw = graph.add("Sub", {least, graph.add("Div", {low, out.scale})});
      out.zero = graph.add("Round", {graph.add("Clip", {raw, least, most})});
    }
  }
  std::string q = graph.add("Div", {floats, out.scale});
  if (!out.zero.empty()) q = graph.add("Add", {q, out.zero});
  out.integers = graph.add("Round", {graph.add("Clip", {q, least, most})});
  return quantized_inputs_.emplace_back(std::move(out));
}

/// What the integers stand for, in the type that is computed in.
std::string OnnxWeights::floats_of(OnnxGraph& graph, QuantizedInput& input) {
  if (!input.floats.empty()) return input.floats;
  if (input.is_pair) return input.floats = graph.add("DequantizeLinear", {input.integers, input.scale, input.zero});
  std::string q = input.integers;
  if (!input.zero.empty()) q = graph.add("Sub", {q, input.zero});
  return input.floats = graph.cast(graph.add("Mul", {q, input.scale}), TensorProto::FLOAT, compute());
}

/// Calls `work(module, first, count)` for pieces of all tensors: once for each float one, once for what belongs to a
/// quantized one.
template <typename Work>
Status OnnxWeights::for_each_piece(const char* what, CancelToken& cancel, const Work& work) const {
  int64_t total = 0, done = 0;
  for (const OnnxTensor& tensor : tensors_) total += tensor.bytes();
  Progress progress(what, total);
  const auto run = [&](const auto& item, size_t leading) -> Status {
    const OnnxTensor& tensor = tensors_[leading];
    const int64_t step = std::max<int64_t>(1, kPieceValues / tensor.cols / kWholeBytes) * kWholeBytes;
    for (int64_t first = 0; first < tensor.rows; first += step) {
      AUTOGLM_RETURN_IF_ERROR(cancel.check());
      AUTOGLM_RETURN_IF_ERROR(work(item, first, std::min(step, tensor.rows - first)).with_context(item.module->name));
    }
    done += tensor.bytes();
    progress.update(done);
    return ok_status();
  };
  for (const FloatItem& item : floats_) AUTOGLM_RETURN_IF_ERROR(run(item, item.tensor));
  for (const QuantizedItem& item : quantized_) AUTOGLM_RETURN_IF_ERROR(run(item, item.values));
  return ok_status();
}

Status OnnxWeights::write(OnnxFile& file, CancelToken& cancel) const {
  struct Work {
    const OnnxWeights& self;
    OnnxFile& file;
    Status operator()(const FloatItem& item, int64_t first, int64_t count) const {
      const std::string name = format::tensor_name(*item.module, item.member);
      const OnnxTensor& tensor = self.tensors_[item.tensor];
      AUTOGLM_ASSIGN_OR_RETURN(const auto bytes, self.model_->checkpoint.bytes(name));
      const int64_t row = tensor.cols * tensor.bits / 8;
      const auto piece = bytes.subspan(static_cast<size_t>(first * row), static_cast<size_t>(count * row));
      if (format::first_non_finite(self.model_->checkpoint.find(name)->dtype, piece) >= 0) {
        return bad_input(
            fmt::format("tensor {} holds NaN or infinity; the checkpoint is damaged", format::display(name)));
      }
      AUTOGLM_RETURN_IF_ERROR(file.write_rows(item.tensor, first, count, piece));
      self.model_->checkpoint.release(name);
      return ok_status();
    }
    Status operator()(const QuantizedItem& item, int64_t first, int64_t count) const {
      return self.write_item(file, item, first, count);
    }
  };
  return for_each_piece("writing", cancel, Work{*this, file});
}

/// Scales that FLOAT16 does not hold, where it is computed in. Those of nothing but zeros do not matter.
Status OnnxWeights::check_scales(const format::QuantizedWeight& weight) const {
  if (compute() != TensorProto::FLOAT16) return ok_status();
  const auto cols = static_cast<size_t>(weight.cols), groups = static_cast<size_t>(weight.args.groups(weight.cols));
  const size_t width = cols / groups, rows = static_cast<size_t>(weight.rows);
  for (size_t i = 0; i < weight.scales.size(); ++i) {
    const float scale = weight.scales[i], rounded = format::rounded_to(DType::kF16, scale);
    if (std::abs(rounded - scale) <= kHalfPrecision * std::abs(scale)) continue;
    const int8_t zero = weight.zero_points.empty() ? int8_t{0} : weight.zero_points[i];
    const bool whole = weight.args.strategy == Strategy::kTensor;
    const auto first = weight.values.begin() + static_cast<int64_t>(whole ? 0 : i * width);
    const auto last = first + static_cast<int64_t>(whole ? rows * cols : width);
    if (std::all_of(first, last, [&](int8_t q) { return q == zero; })) continue;
    return invalid_argument(fmt::format("the scale {} is beyond what FLOAT16 holds; give --type fp32", scale));
  }
  return ok_status();
}

Status OnnxWeights::write_item(OnnxFile& file, const QuantizedItem& item, int64_t first, int64_t count) const {
  const ModuleSpec& module = *item.module;
  AUTOGLM_ASSIGN_OR_RETURN(const auto weight, format::decode_rows(*model_, module, first, count));
  model_->release_weight(module);
  AUTOGLM_RETURN_IF_ERROR(file.write_rows(item.values, first, count, std::as_bytes(std::span(weight.values))));
  const OnnxTensor& tensor = tensors_[item.scales];
  const int64_t groups = weight.args.groups(weight.cols);
  const bool whole = weight.args.strategy == Strategy::kTensor;
  if (whole && tensor.rows == 1 && first > 0) return ok_status();  // one scale, written with the first rows
  std::vector<float> scales = weight.scales;
  std::vector<int8_t> zeros = weight.zero_points;
  const int64_t rows = whole && tensor.rows == 1 ? 1 : count;
  if (whole && rows > 1) scales.assign(static_cast<size_t>(rows), weight.scales[0]);
  if (whole && rows > 1 && !zeros.empty()) zeros.assign(static_cast<size_t>(rows), weight.zero_points[0]);
  if (item.zeros && zeros.empty()) zeros.assign(scales.size(), 0);
  scales = repeated<float>(scales, groups, tensor.cols);
  zeros = repeated<int8_t>(zeros, groups, tensor.cols);
  std::vector<std::byte> bytes(scales.size() * static_cast<size_t>(tensor.bits) / 8);
  const DType stored = float_type(tensor.type);
  AUTOGLM_RETURN_IF_ERROR(check_scales(weight));
  format::from_float(stored, scales, bytes);
  AUTOGLM_RETURN_IF_ERROR(file.write_rows(item.scales, first, rows, bytes));
  if (item.zeros) AUTOGLM_RETURN_IF_ERROR(file.write_rows(*item.zeros, first, rows, std::as_bytes(std::span(zeros))));
  return ok_status();
}

Result<double> OnnxWeights::read_back(const OnnxFile& file, CancelToken& cancel) const {
  double rounding = 0;
  struct Work {
    const OnnxWeights& self;
    const OnnxFile& file;
    double& rounding;
    Status operator()(const FloatItem& item, int64_t first, int64_t count) const {
      const std::string name = format::tensor_name(*item.module, item.member);
      const OnnxTensor& tensor = self.tensors_[item.tensor];
      AUTOGLM_ASSIGN_OR_RETURN(const auto bytes, self.model_->checkpoint.bytes(name));
      const int64_t row = tensor.cols * tensor.bits / 8;
      std::vector<std::byte> found(static_cast<size_t>(count * row));
      AUTOGLM_RETURN_IF_ERROR(file.read_rows(item.tensor, first, count, found));
      const bool same = std::memcmp(found.data(), bytes.data() + first * row, found.size()) == 0;
      self.model_->checkpoint.release(name);
      return same ? ok_status() : internal_error("is not read back as it was written");
    }
    Status operator()(const QuantizedItem& item, int64_t first, int64_t count) const {
      AUTOGLM_ASSIGN_OR_RETURN(const double moved, self.compare_item(file, item, first, count));
      rounding = std::max(rounding, moved);
      return ok_status();
    }
  };
  AUTOGLM_RETURN_IF_ERROR(for_each_piece("reading back", cancel, Work{*this, file, rounding}));
  return rounding;
}

/// What the file's integers and scales stand for, by ONNX's rule, against the model's own floats; by how much of itself
/// a weight differs at most.
Result<double> OnnxWeights::compare_item(const OnnxFile& file, const QuantizedItem& item, int64_t first,
                                         int64_t count) const {
  const OnnxTensor &values = tensors_[item.values], &scales = tensors_[item.scales];
  const int64_t cols = values.cols;
  const bool whole = scales.rows == 1;
  const int64_t rows = whole ? 1 : count, from = whole ? 0 : first;
  std::vector<int8_t> q(static_cast<size_t>(count * cols)), zeros(static_cast<size_t>(rows * scales.cols));
  std::vector<std::byte> bytes(static_cast<size_t>(rows * scales.cols * scales.bits / 8));
  AUTOGLM_RETURN_IF_ERROR(file.read_rows(item.values, first, count, std::as_writable_bytes(std::span(q))));
  AUTOGLM_RETURN_IF_ERROR(file.read_rows(item.scales, from, rows, bytes));
  if (item.zeros)
    AUTOGLM_RETURN_IF_ERROR(file.read_rows(*item.zeros, from, rows, std::as_writable_bytes(std::span(zeros))));
  std::vector<float> scale(zeros.size()), expected(q.size());
  format::to_float(float_type(scales.type), bytes, scale);
  // Exactly, but for scales that the target wants in 16 bits.
  const bool is_rounded = scales.type == TensorProto::FLOAT16 && scale_dtype(*item.module) != DType::kF16;
  const float tolerance = is_rounded ? kHalfPrecision : 0;
  double rounding = 0;
  const format::WeightRows floats = format::WeightRows::of(*model_, *item.module, Member::kWeight);
  AUTOGLM_RETURN_IF_ERROR(floats.read(first, count, expected));
  floats.release();
  const auto width = static_cast<size_t>(cols), groups = static_cast<size_t>(scales.cols);
  for (size_t row = 0; row < static_cast<size_t>(count); ++row) {
    for (size_t g = 0; g < groups; ++g) {
      const size_t group = (whole ? 0 : row * groups) + g, block = static_cast<size_t>(item.block);
      for (size_t at = row * width + g * block; at < row * width + std::min(width, (g + 1) * block); ++at) {
        const float found = static_cast<float>(q[at] - zeros[group]) * scale[group];
        const float difference = std::abs(found - expected[at]), size = std::abs(expected[at]);
        if (!(difference <= tolerance * size)) {
          return internal_error(
              fmt::format("element {} is not read back as it was written", first * cols + static_cast<int64_t>(at)));
        }
        if (difference > 0) rounding = std::max(rounding, static_cast<double>(difference) / size);
      }
    }
  }
  return rounding;
}

}  // namespace autoglm::exports
