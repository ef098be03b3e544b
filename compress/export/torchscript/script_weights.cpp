#include "compress/export/torchscript/script_weights.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <utility>

#include "compress/tensor/bridge.h"
#include "core/format/bit_packing.h"
#include "core/format/quantized_weight.h"

namespace autoglm::exports {
namespace {

using format::DType;
using format::InputQuant;
using format::ModuleSpec;
using format::QuantArgs;
using format::Strategy;

/// TorchScript's numbers of dtypes: 0 is uint8, 1 int8, 3 int32, 6 float32.

bool fills_bytes(int bits) { return 8 % bits == 0; }

/// def NAME(self, packed: Tensor) -> Tensor: unsigned values [rows, count] of bit-packed rows: of bytes, which hold
/// whole values, or of 32-bit words.
std::string unpack_bytes(std::string_view name, int bits, int64_t count) {
  return fmt::format(R"(
def {0}(self, packed: Tensor) -> Tensor:
    shifts = torch.arange(0, 8, {1}, dtype=0, device=packed.device)
    values = torch.bitwise_right_shift(packed.unsqueeze(2), shifts) & {2}
    return values.reshape(packed.size(0), -1).narrow(1, 0, {3})
)",
                     name, bits, (1 << bits) - 1, count);
}

std::string unpack_words(std::string_view name, int bits, int64_t count) {
  const int64_t words = format::packed_words(count, bits), missing = (bits - words % bits) % bits;
  return fmt::format(R"(
def {0}(self, packed: Tensor) -> Tensor:
    words = torch.constant_pad_nd(packed, [0, {4}]).reshape(packed.size(0), -1, {1})
    bit = torch.arange(0, {5}, {1}, device=packed.device)
    first = bit // 32
    shift = (bit % 32).to(3)
    mask = torch.bitwise_left_shift(torch.ones_like(shift), torch.clamp_max(32 - shift, {1})) - 1
    low = torch.bitwise_right_shift(words.index_select(2, first), shift) & mask
    high = torch.bitwise_left_shift(words.index_select(2, torch.clamp_max(first + 1, {6})), 32 - shift) & {2}
    return (low | high).reshape(packed.size(0), -1).narrow(1, 0, {3})
)",
                     name, bits, (1 << bits) - 1, count, missing, 32 * bits, bits - 1);
}

/// def quantize(self, x: Tensor): x's integers as floats, the scale, and a zero point where there is one; as
/// compressed-tensors computes them (quantization/utils/helpers.py, calculate_qparams).
std::string quantize_source(const InputQuant& quant) {
  const int q_min = quant.args.q_min(), q_max = quant.args.q_max();
  if (!quant.args.dynamic) {
    return fmt::format(R"(
def fake_quantize(self, x: Tensor) -> Tensor:
    q = torch.round(torch.clamp(x / self.input_scale + self.input_zero_point, {}, {}))
    return (q - self.input_zero_point) * self.input_scale
)",
                       q_min, q_max);
  }
  std::string source = R"(
def quantize(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    low = torch.clamp_max(torch.amin(x, [-1], True), 0)
    high = torch.clamp_min(torch.amax(x, [-1], True), 0)
)";
  const double range = q_max - q_min;
  source += quant.args.symmetric ? fmt::format("    scale = torch.maximum(-low, high) / {:.1f}\n", range / 2)
                                 : fmt::format("    scale = (high - low) / {:.1f}\n", range);
  source += "    scale = torch.masked_fill(scale, scale == 0, 1.1920928955078125e-07)\n";
  source += quant.args.symmetric
                ? "    zero = torch.zeros_like(scale)\n"
                : fmt::format("    zero = torch.round(torch.clamp({0} - low / scale, {0}, {1}))\n", q_min, q_max);
  source += fmt::format("    return torch.round(torch.clamp(x / scale + zero, {}, {})), scale, zero\n", q_min, q_max);
  return source + R"(
def fake_quantize(self, x: Tensor) -> Tensor:
    q, scale, zero = self.quantize(x)
    return (q - zero) * scale
)";
}

}  // namespace

Result<ScriptWeights> ScriptWeights::plan(const format::StoredModel& model, ScriptClasses& classes) {
  ScriptWeights out(model, classes);
  AUTOGLM_ASSIGN_OR_RETURN(out.inputs_, format::quantized_inputs(model));
  return out;
}

/// A stored tensor where it lies; `as_bytes`: the words of its rows as bytes.
at::Tensor ScriptWeights::map_tensor(const std::string& name, bool as_bytes) {
  if (const auto found = known_.find(name); found != known_.end()) return found->second;
  const format::TensorInfo& info = *model_->checkpoint.find(name);
  const auto bytes = model_->checkpoint.bytes(name).value();
  format::Shape shape = info.shape;
  if (as_bytes) shape.back() *= format::size_of(info.dtype);
  // Nothing writes to it: the module is stored and never run.
  auto* data = const_cast<std::byte*>(bytes.data());
  at::Tensor tensor = at::from_blob(data, shape, as_bytes ? at::kByte : tensor::to_torch(info.dtype));
  if (!bytes.empty()) tensors_.emplace(data, MappedTensor{name, bytes});
  known_.emplace(name, tensor);
  return tensor;
}

/// As its scheme says, by which it was checked; there may be other tensors of its name.
bool ScriptWeights::stores_packed(const ModuleSpec& module) const {
  return model_->quantization->format_of(*model_->scheme_of(module)) == format::kPackQuantized;
}

at::Tensor ScriptWeights::tensor(const ModuleSpec& module, format::Member member) {
  return map_tensor(format::tensor_name(module, member));
}

/// dequantize(stored, scale, zero), the floats of rows; scales(), zeros() of all rows, [out or 1, groups]; stored(),
/// what the first takes. Adds the tensors to `attributes`.
std::string ScriptWeights::quantized_source(const ModuleSpec& module, const QuantArgs& args,
                                            std::vector<ScriptAttribute>& attributes) {
  const int64_t rows = module.shape[0], cols = module.shape[1], groups = args.groups(cols);
  const int offset = 1 << (args.num_bits - 1);
  const bool is_packed = stores_packed(module);
  const std::string stored = is_packed ? "weight_packed" : "weight";
  attributes.push_back({stored, map_tensor(module.name + '.' + stored, is_packed && fills_bytes(args.num_bits))});
  attributes.push_back({"weight_scale", map_tensor(module.name + ".weight_scale")});
  std::string source = fmt::format(R"(
def stored(self) -> Tensor:
    return self.{0}

def scales(self) -> Tensor:
    return self.weight_scale.to(6).reshape(-1, {1})
)",
                                   stored, groups);

  if (is_packed) {
    source += fills_bytes(args.num_bits) ? unpack_bytes("unpack", args.num_bits, cols)
                                         : unpack_words("unpack", args.num_bits, cols);
  }
  source +=
      fmt::format(R"(
def dequantize(self, stored: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    q = {0}
    q = q.reshape(q.size(0), {1}, -1) - zero.unsqueeze(2)
    return (q * scale.unsqueeze(2)).reshape(q.size(0), {2})
)",
                  is_packed ? fmt::format("self.unpack(stored).to(6) - {}.0", offset) : "stored.to(6)", groups, cols);

  if (args.symmetric) {
    return source + R"(
def zeros(self) -> Tensor:
    return torch.zeros([1, 1], dtype=6, device=self.weight_scale.device)
)";
  }
  const std::string zeros = module.name + ".weight_zero_point";
  attributes.push_back({"weight_zero_point", map_tensor(zeros)});
  if (model_->checkpoint.find(zeros)->dtype == DType::kI8) {
    return source + fmt::format(R"(
def zeros(self) -> Tensor:
    return self.weight_zero_point.to(6).reshape(-1, {})
)",
                                groups);
  }
  return source + unpack_words("unpack_zeros", args.num_bits, rows) +
         fmt::format(R"(
def zeros(self) -> Tensor:
    return (self.unpack_zeros(self.weight_zero_point.t()).to(6) - {}.0).t()
)",
                     offset);
}

torch::jit::Module ScriptWeights::linear(const ModuleSpec& module) {
  const auto* scheme = model_->scheme_of(module);
  const auto input = inputs_.find(&module);
  std::vector<ScriptAttribute> attributes;
  std::string source, bias = "None";
  if (module.has_bias) {
    attributes.push_back({"bias", tensor(module, format::Member::kBias)});
    bias = "self.bias.to(6)";
  }
  if (scheme == nullptr) {
    attributes.push_back({"weight", tensor(module)});
    source = fmt::format(R"(
def forward(self, x: Tensor) -> Tensor:
    return torch.linear(x, self.weight.to(6), {})
)",
                         bias);
    return classes_->make("Linear", source, attributes);
  }

  ++quantized_;
  const QuantArgs& args = *scheme->weights;
  source = quantized_source(module, args, attributes);
  std::string x = "x";
  if (input != inputs_.end()) {
    const InputQuant& quant = input->second;
    source += quantize_source(quant);
    x = "self.fake_quantize(x)";
    if (!quant.args.dynamic) {
      attributes.push_back({"input_scale", double{quant.scale}});
      attributes.push_back({"input_zero_point", double{quant.zero_point}});
    }
    if (!stores_packed(module) && quant.args.dynamic && quant.args.symmetric && quant.args.num_bits == 8 &&
        args.symmetric && args.strategy != Strategy::kGroup) {
      ++integer_products_;
      source += fmt::format(R"(
def forward(self, x: Tensor) -> Tensor:
    if x.is_cuda:  # there the product of integers is for more than 16 rows alone
        return torch.linear(self.fake_quantize(x), self.dequantize(self.stored(), self.scales(), self.zeros()), {2})
    q, scale, zero = self.quantize(x.reshape(-1, {0}))
    y = torch._int_mm(q.to(1), self.weight.t()).to(6) * scale * self.scales().reshape(1, -1)
    y = y.reshape(x.shape[:-1] + [{1}])
    bias: Optional[Tensor] = {2}
    if bias is not None:
        y = y + bias
    return y
)",
                            module.shape[1], module.shape[0], bias);
      return classes_->make("Int8Linear", source, attributes);
    }
  }
  source += fmt::format(R"(
def forward(self, x: Tensor) -> Tensor:
    return torch.linear({}, self.dequantize(self.stored(), self.scales(), self.zeros()), {})
)",
                        x, bias);
  return classes_->make("QuantizedLinear", source, attributes);
}

torch::jit::Module ScriptWeights::embedding() {
  const ModuleSpec& module = model_->embedding();
  std::vector<ScriptAttribute> attributes;
  const auto* scheme = model_->scheme_of(module);
  if (scheme == nullptr) {
    attributes.push_back({"weight", tensor(module)});
    return classes_->make("Embedding", R"(
def forward(self, ids: Tensor) -> Tensor:
    return torch.embedding(self.weight, ids).to(6)

def head(self, x: Tensor) -> Tensor:
    return torch.linear(x, self.weight.to(6), None)
)",
                          attributes);
  }
  ++quantized_;
  const QuantArgs& args = *scheme->weights;
  const std::string source = quantized_source(module, args, attributes);
  const auto rows_of = [](std::string_view all, bool has_rows) {
    return fmt::format("self.{}(){}", all, has_rows ? ".index_select(0, rows)" : "");
  };
  const bool by_row = args.strategy != Strategy::kTensor;
  return classes_->make("QuantizedEmbedding",
                        source + fmt::format(R"(
def forward(self, ids: Tensor) -> Tensor:
    rows = ids.reshape(-1)
    x = self.dequantize(self.stored().index_select(0, rows), {0}, {1})
    return x.reshape(ids.size(0), ids.size(1), -1)

def head(self, x: Tensor) -> Tensor:
    return torch.linear(x, self.dequantize(self.stored(), self.scales(), self.zeros()), None)
)",
                                             rows_of("scales", by_row), rows_of("zeros", by_row && !args.symmetric)),
                        attributes);
}

}  // namespace autoglm::exports
