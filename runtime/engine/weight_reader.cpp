#include "runtime/engine/weight_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <nlohmann/json.hpp>

#include "core/format/display.h"
#include "core/format/quantized_weight.h"

namespace autoglm::engine {
namespace {

/// What a module's weight may consist of.
constexpr const char* kSuffixes[] = {".weight", ".weight_packed", ".weight_scale", ".weight_zero_point"};

using format::ModuleSpec;
using format::QuantArgs;
using format::QuantScheme;
using format::Strategy;

/// Bytes of a packed matrix: memory that is asked for but not touched costs nothing.
Result<int64_t> bytes_of(const kernels::PackedShape& shape) {
  AUTOGLM_ASSIGN_OR_RETURN(const kernels::PackedWeight weight, kernels::PackedWeight::allocate(shape));
  return static_cast<int64_t>(weight.bytes().size());
}

/// Which activation quantizations can be run on a batch of several sequences.
Status check_activations(const format::QuantConfig& config) {
  for (const auto& [name, scheme] : config.config_groups) {
    if (!scheme.input_activations) continue;
    const QuantArgs& args = *scheme.input_activations;
    if (args.strategy == (args.dynamic ? Strategy::kToken : Strategy::kTensor)) continue;
    return bad_input(
        fmt::format("quantization_config: {}: input_activations of strategy {}, {}, are not supported; "
                    "dynamic token and static tensor are",
                    name, to_string(args.strategy), args.dynamic ? "dynamic" : "static"));
  }
  return ok_status();
}

}  // namespace

Result<WeightReader> WeightReader::open(const std::filesystem::path& folder) {
  WeightReader reader;
  AUTOGLM_ASSIGN_OR_RETURN(reader.config_, format::ModelConfig::load(folder));
  AUTOGLM_ASSIGN_OR_RETURN(format::Checkpoint checkpoint, format::Checkpoint::open(folder));
  reader.checkpoint_ = std::make_shared<const format::Checkpoint>(std::move(checkpoint));
  AUTOGLM_ASSIGN_OR_RETURN(reader.layout_, format::TensorLayout::resolve(reader.config_, *reader.checkpoint_));
  if (reader.config_.raw.contains("quantization_config")) {
    const std::string where = format::display_path(folder / "config.json");
    auto parsed = format::QuantConfig::parse(reader.config_.raw.at("quantization_config"));
    if (!parsed.ok()) return parsed.status().with_context(where);
    if (const Status status = check_activations(*parsed); !status.ok()) return status.with_context(where);
    reader.quant_config_ = *std::move(parsed);
  }
  return reader;
}

const ModuleSpec& WeightReader::head() const {
  const ModuleSpec* own = layout_.find(format::Role::kHead);
  return own != nullptr ? *own : embedding();
}

Result<const QuantScheme*> WeightReader::scheme_of(const ModuleSpec& module) const {
  const std::string_view type = module.role == format::Role::kEmbedding ? "Embedding" : "Linear";
  const bool quantizable = is_linear(module.role) || module.role == format::Role::kEmbedding;
  const QuantScheme* scheme = quant_config_ && quantizable ? quant_config_->scheme_for(module.name, type) : nullptr;
  if (scheme != nullptr && scheme->weights) return scheme;
  const format::TensorInfo* weight = checkpoint_->find(module.weight_name());
  if (weight != nullptr && format::is_float(weight->dtype)) return nullptr;
  return bad_input(
      fmt::format("{}: module {} is stored quantized, but no scheme of config.json's quantization_config names it",
                  format::display_path(checkpoint_->folder()), format::display(module.name)));
}

Result<kernels::PackedShape> WeightReader::packed_shape(const ModuleSpec& module) const {
  AUTOGLM_ASSIGN_OR_RETURN(const QuantScheme* scheme, scheme_of(module));
  const int64_t rows = module.shape[0], cols = module.shape[1];
  if (scheme == nullptr) {
    const format::DType dtype = checkpoint_->find(module.weight_name())->dtype;
    return kernels::PackedShape::of(dtype == format::DType::kF64 ? format::DType::kF32 : dtype, rows, cols);
  }
  const format::TensorInfo* scale = checkpoint_->find(module.name + ".weight_scale");
  const format::DType dtype = scale == nullptr ? format::DType::kF32 : scale->dtype;  // decode_rows names its absence
  return kernels::PackedShape::of(*scheme->weights, format::is_float(dtype) ? dtype : format::DType::kF32, rows, cols);
}

Result<WeightReader::Bytes> WeightReader::predict(const ModuleSpec& module) const {
  AUTOGLM_ASSIGN_OR_RETURN(const kernels::PackedShape shape, packed_shape(module));
  AUTOGLM_ASSIGN_OR_RETURN(const int64_t bytes, bytes_of(shape));
  const format::TensorInfo* weight = checkpoint_->find(module.weight_name());
  const bool in_place = shape.type != kernels::WeightType::kQuantized && weight->dtype != format::DType::kF64;
  return in_place ? Bytes{.mapped = bytes} : Bytes{.packed = bytes};
}

int64_t WeightReader::stored_bytes(const ModuleSpec& module) const {
  int64_t total = 0;
  for (const char* suffix : kSuffixes) {
    const format::TensorInfo* info = checkpoint_->find(module.name + suffix);
    if (info != nullptr) total += info->nbytes;
  }
  return total;
}

Result<std::optional<InputQuant>> WeightReader::input_quant(const ModuleSpec& module) const {
  AUTOGLM_ASSIGN_OR_RETURN(const QuantScheme* scheme, scheme_of(module));
  // An embedding that serves as head has no input of its own to quantize.
  if (scheme == nullptr || !scheme->input_activations || module.role == format::Role::kEmbedding) {
    return std::optional<InputQuant>();
  }
  InputQuant quant{.args = *scheme->input_activations};
  if (quant.args.dynamic) return std::optional(quant);
  const auto scalar = [&](const std::string& name) -> Result<float> {
    AUTOGLM_ASSIGN_OR_RETURN(const std::vector<float> values, vector(name));
    if (values.size() == 1) return values[0];
    return bad_input(fmt::format("{}: tensor {} has {} values, but one is expected",
                                 format::display_path(checkpoint_->file_of(name)), format::display(name),
                                 values.size()));
  };
  const std::string name = module.name + ".input_scale";
  AUTOGLM_ASSIGN_OR_RETURN(quant.scale, scalar(name));
  if (!(quant.scale > 0)) {
    return bad_input(fmt::format("{}: tensor {} is {}, must be above 0",
                                 format::display_path(checkpoint_->file_of(name)), format::display(name), quant.scale));
  }
  if (!quant.args.symmetric) {
    AUTOGLM_ASSIGN_OR_RETURN(quant.zero_point, scalar(module.name + ".input_zero_point"));
  }
  return std::optional(quant);
}

Result<std::vector<float>> WeightReader::vector(const std::string& name) const {
  const format::TensorInfo* info = checkpoint_->find(name);
  if (info == nullptr) {
    return bad_input(
        fmt::format("{}: tensor {} is missing", format::display_path(checkpoint_->folder()), format::display(name)));
  }
  AUTOGLM_ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, checkpoint_->bytes(name));
  std::vector<float> values(bytes.size() / static_cast<size_t>(format::size_of(info->dtype)));
  format::to_float(info->dtype, bytes, values);
  const auto bad = std::find_if(values.begin(), values.end(), [](float x) { return !std::isfinite(x); });
  if (bad == values.end()) return values;
  return bad_input(fmt::format("{}: tensor {}: element {} is {}", format::display_path(checkpoint_->file_of(name)),
                               format::display(name), bad - values.begin(), std::isnan(*bad) ? "NaN" : "infinite"));
}

Status WeightReader::embedding_row(int64_t id, std::span<float> out) const {
  const ModuleSpec& module = embedding();
  AUTOGLM_ASSIGN_OR_RETURN(const QuantScheme* scheme, scheme_of(module));
  if (scheme != nullptr) {
    AUTOGLM_ASSIGN_OR_RETURN(const format::QuantizedWeight row,
                             format::decode_rows(*checkpoint_, module.name, *scheme, quant_config_->format_of(*scheme),
                                                 module.shape, id, 1));
    format::dequantize(row, out);
    return ok_status();
  }
  AUTOGLM_ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, checkpoint_->bytes(module.weight_name()));
  const format::DType dtype = checkpoint_->find(module.weight_name())->dtype;
  format::to_float(
      dtype, bytes.subspan(static_cast<size_t>(id) * out.size() * static_cast<size_t>(format::size_of(dtype))), out);
  return ok_status();
}

void WeightReader::release(const std::string& module) const {
  for (const char* suffix : kSuffixes) {
    if (const std::string name = module + suffix; checkpoint_->find(name) != nullptr) checkpoint_->release(name);
  }
}

Result<Linear> WeightReader::load(const std::vector<const ModuleSpec*>& modules, const kernels::PackedShape& shape,
                                  kernels::ThreadPool& pool, const CancelToken* cancel) const {
  Linear linear;
  AUTOGLM_ASSIGN_OR_RETURN(linear.input, input_quant(*modules.front()));
  for (const ModuleSpec* module : modules) {
    if (!module->has_bias) continue;
    AUTOGLM_ASSIGN_OR_RETURN(const std::vector<float> bias, vector(module->bias_name()));
    linear.bias.insert(linear.bias.end(), bias.begin(), bias.end());
  }
  const ModuleSpec& first = *modules.front();
  if (shape.type != kernels::WeightType::kQuantized &&
      checkpoint_->find(first.weight_name())->dtype != format::DType::kF64) {
    AUTOGLM_ASSIGN_OR_RETURN(const auto bytes, checkpoint_->bytes(first.weight_name()));
    AUTOGLM_ASSIGN_OR_RETURN(linear.weight, kernels::PackedWeight::view(shape, bytes));
    return linear;
  }

  AUTOGLM_ASSIGN_OR_RETURN(linear.weight, kernels::PackedWeight::allocate(shape));
  int64_t offset = 0;
  for (const ModuleSpec* module : modules) {
    AUTOGLM_ASSIGN_OR_RETURN(const QuantScheme* scheme, scheme_of(*module));
    const int64_t rows = module->shape[0], cols = module->shape[1];
    const int64_t blocks = std::max<int64_t>(1, kPieceElements / std::max<int64_t>(1, cols * kernels::kBlockRows));
    const int64_t step = blocks * kernels::kBlockRows;
    const auto piece = [&](int64_t begin) -> Status {
      if (cancel != nullptr) AUTOGLM_RETURN_IF_ERROR(cancel->check());
      const int64_t count = std::min(step, rows - begin);
      if (scheme != nullptr) {
        AUTOGLM_ASSIGN_OR_RETURN(const format::QuantizedWeight part,
                                 format::decode_rows(*checkpoint_, module->name, *scheme,
                                                     quant_config_->format_of(*scheme), module->shape, begin, count));
        return linear.weight.set_rows(offset + begin, part);
      }
      AUTOGLM_ASSIGN_OR_RETURN(const auto bytes, checkpoint_->bytes(module->weight_name()));
      std::vector<float> values(static_cast<size_t>(count * cols));
      format::to_float(format::DType::kF64, bytes.subspan(static_cast<size_t>(begin * cols * 8)), values);
      return linear.weight.set_rows(offset + begin, std::as_bytes(std::span(values)));
    };
    std::mutex mutex;
    Status failure;
    pool.parallel_for((rows + step - 1) / step, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        Status status;
        try {
          status = piece(i * step);
        } catch (const std::bad_alloc&) {
          status = resource_exhausted(fmt::format("not enough memory to load {}", format::display(module->name)));
        }
        if (status.ok()) continue;
        const std::lock_guard lock(mutex);
        if (failure.ok()) failure = status;
        return;
      }
    });
    AUTOGLM_RETURN_IF_ERROR(failure);
    release(module->name);
    offset += rows;
  }
  return linear;
}

Result<std::vector<Linear>> WeightReader::linears(const std::vector<const ModuleSpec*>& modules,
                                                  kernels::ThreadPool& pool, const CancelToken* cancel) const {
  std::vector<Linear> loaded;
  for (size_t first = 0; first < modules.size();) {
    AUTOGLM_ASSIGN_OR_RETURN(kernels::PackedShape shape, packed_shape(*modules[first]));
    AUTOGLM_ASSIGN_OR_RETURN(const std::optional<InputQuant> input, input_quant(*modules[first]));
    std::vector<const ModuleSpec*> joined = {modules[first++]};
    // Rows of joined modules begin at whole blocks. Float matrices stay where the file has them.
    while (first < modules.size() && shape.type == kernels::WeightType::kQuantized &&
           shape.rows % kernels::kBlockRows == 0 && modules[first]->has_bias == joined.front()->has_bias) {
      AUTOGLM_ASSIGN_OR_RETURN(kernels::PackedShape next, packed_shape(*modules[first]));
      AUTOGLM_ASSIGN_OR_RETURN(const std::optional<InputQuant> next_input, input_quant(*modules[first]));
      const int64_t rows = next.rows;
      next.rows = shape.rows;
      if (!(next == shape) || !(next_input == input)) break;
      shape.rows += rows;
      joined.push_back(modules[first++]);
    }
    AUTOGLM_ASSIGN_OR_RETURN(Linear linear, load(joined, shape, pool, cancel));
    loaded.push_back(std::move(linear));
  }
  return loaded;
}

}  // namespace autoglm::engine
