#include "runtime/engine/weight_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <nlohmann/json.hpp>

#include "core/format/display.h"
#include "core/format/quantized_weight.h"
#include "core/format/weight_rows.h"

namespace autoglm::engine {

using format::ModuleSpec;
using format::QuantScheme;

Result<WeightReader> WeightReader::open(const std::filesystem::path& folder) {
  AUTOGLM_ASSIGN_OR_RETURN(format::StoredModel stored, format::StoredModel::open(folder));
  AUTOGLM_RETURN_IF_ERROR(format::check_token_or_tensor_activations(stored));
  WeightReader reader;
  reader.stored_ = std::make_shared<const format::StoredModel>(std::move(stored));
  return reader;
}

Result<kernels::PackedShape> WeightReader::packed_shape(const ModuleSpec& module) const {
  const QuantScheme* scheme = stored_->scheme_of(module);
  const int64_t rows = module.shape[0], cols = module.shape[1];
  if (scheme == nullptr) {
    const format::DType dtype = stored_->checkpoint.find(module.weight_name())->dtype;
    return kernels::PackedShape::of(dtype == format::DType::kF64 ? format::DType::kF32 : dtype, rows, cols);
  }
  const format::TensorInfo* scale = stored_->checkpoint.find(module.name + ".weight_scale");
  const format::DType dtype = scale == nullptr ? format::DType::kF32 : scale->dtype;  // decode_rows names its absence
  return kernels::PackedShape::of(*scheme->weights, format::is_float(dtype) ? dtype : format::DType::kF32, rows, cols);
}

bool WeightReader::is_looked_up(const ModuleSpec& module) const {
  return module.role == format::Role::kEmbedding && &module != &head();
}

bool WeightReader::is_used_in_place(const ModuleSpec& module) const {
  return stored_->scheme_of(module) == nullptr &&
         stored_->checkpoint.find(module.weight_name())->dtype != format::DType::kF64;
}

void WeightReader::keep() const {
  for (const ModuleSpec& module : layout().modules()) {
    if (module.shape.size() == 2 && !is_looked_up(module) && is_used_in_place(module))
      return stored_->checkpoint.keep();
  }
}

Result<std::vector<Weights::Matrix>> WeightReader::matrices() const {
  std::vector<Matrix> all;
  for (const ModuleSpec& module : layout().modules()) {
    if (module.shape.size() != 2) continue;
    AUTOGLM_ASSIGN_OR_RETURN(const kernels::PackedShape shape, packed_shape(module));
    if (is_looked_up(module)) {
      all.push_back({shape, {.mapped = stored_->weight_bytes(module)}});
      continue;
    }
    AUTOGLM_ASSIGN_OR_RETURN(const int64_t bytes, shape.bytes());
    all.push_back({shape, is_used_in_place(module) ? Bytes{.mapped = bytes} : Bytes{.packed = bytes}});
  }
  return all;
}

Result<std::vector<float>> WeightReader::vector(const ModuleSpec& module) const {
  return finite_floats(stored_->checkpoint, module.weight_name());
}

Status WeightReader::embedding_row(int64_t id, std::span<float> out) const {
  const ModuleSpec& module = stored_->embedding();
  const QuantScheme* scheme = stored_->scheme_of(module);
  if (scheme != nullptr) {
    AUTOGLM_ASSIGN_OR_RETURN(const format::QuantizedWeight row, format::decode_rows(*stored_, module, id, 1));
    format::dequantize(row, out);
    return ok_status();
  }
  AUTOGLM_ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, stored_->checkpoint.bytes(module.weight_name()));
  const format::DType dtype = stored_->checkpoint.find(module.weight_name())->dtype;
  format::to_float(
      dtype, bytes.subspan(static_cast<size_t>(id) * out.size() * static_cast<size_t>(format::size_of(dtype))), out);
  return ok_status();
}

Result<Linear> WeightReader::load(const std::vector<const ModuleSpec*>& modules, const kernels::PackedShape& shape,
                                  kernels::ThreadPool& pool, const CancelToken* cancel) const {
  Linear linear;
  AUTOGLM_ASSIGN_OR_RETURN(linear.input, stored_->input_quant(*modules.front()));
  for (const ModuleSpec* module : modules) {
    if (!module->has_bias) continue;
    AUTOGLM_ASSIGN_OR_RETURN(const std::vector<float> bias, finite_floats(stored_->checkpoint, module->bias_name()));
    linear.bias.insert(linear.bias.end(), bias.begin(), bias.end());
  }
  const ModuleSpec& first = *modules.front();
  if (is_used_in_place(first)) {
    AUTOGLM_ASSIGN_OR_RETURN(const auto bytes, stored_->checkpoint.bytes(first.weight_name()));
    AUTOGLM_ASSIGN_OR_RETURN(linear.weight, kernels::PackedWeight::view(shape, bytes));
    return linear;
  }

  AUTOGLM_ASSIGN_OR_RETURN(linear.weight, kernels::PackedWeight::allocate(shape));
  int64_t offset = 0;
  for (const ModuleSpec* module : modules) {
    const QuantScheme* scheme = stored_->scheme_of(*module);
    const int64_t rows = module->shape[0], cols = module->shape[1];
    const int64_t blocks = std::max<int64_t>(1, kPieceElements / std::max<int64_t>(1, cols * kernels::kBlockRows));
    const int64_t step = blocks * kernels::kBlockRows;
    const auto piece = [&](int64_t begin) -> Status {
      if (cancel != nullptr) AUTOGLM_RETURN_IF_ERROR(cancel->check());
      const int64_t count = std::min(step, rows - begin);
      if (scheme != nullptr) {
        AUTOGLM_ASSIGN_OR_RETURN(const format::QuantizedWeight part,
                                 format::decode_rows(*stored_, *module, begin, count));
        return linear.weight.set_rows(offset + begin, part);
      }
      AUTOGLM_ASSIGN_OR_RETURN(const auto bytes, stored_->checkpoint.bytes(module->weight_name()));
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
    stored_->release_weight(*module);
    offset += rows;
  }
  return linear;
}

Result<std::vector<Linear>> WeightReader::linears(const std::vector<const ModuleSpec*>& modules,
                                                  kernels::ThreadPool& pool, const CancelToken* cancel) const {
  std::vector<Linear> loaded;
  for (size_t first = 0; first < modules.size();) {
    AUTOGLM_ASSIGN_OR_RETURN(kernels::PackedShape shape, packed_shape(*modules[first]));
    AUTOGLM_ASSIGN_OR_RETURN(const std::optional<format::InputQuant> input, stored_->input_quant(*modules[first]));
    std::vector<const ModuleSpec*> joined = {modules[first++]};
    // Rows of joined modules begin at whole blocks. Float matrices stay where the file has them.
    while (first < modules.size() && shape.type == kernels::WeightType::kQuantized &&
           shape.rows % kernels::kBlockRows == 0 && modules[first]->has_bias == joined.front()->has_bias) {
      AUTOGLM_ASSIGN_OR_RETURN(kernels::PackedShape next, packed_shape(*modules[first]));
      AUTOGLM_ASSIGN_OR_RETURN(const std::optional<format::InputQuant> next_input,
                               stored_->input_quant(*modules[first]));
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
