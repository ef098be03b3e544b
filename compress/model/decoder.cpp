#include "compress/model/decoder.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "compress/model/layers.h"
#include "compress/tensor/bridge.h"
#include "core/format/quantized_weight.h"
#include "core/format/weight_rows.h"

namespace autoglm::model {
namespace {

using format::ModuleSpec;
using format::Role;

constexpr int64_t kPieceElements = 1 << 20;  // of a weight decoded, or multiplied, at a time

int64_t rows_per_piece(const ModuleSpec& module) {
  return std::max<int64_t>(1, kPieceElements / std::max<int64_t>(1, module.shape[1]));
}

}  // namespace

Result<Decoder> Decoder::open(const std::filesystem::path& folder, const DecoderOptions& options) {
  return tensor::guarded([&]() -> Result<Decoder> {
    AUTOGLM_RETURN_IF_ERROR(tensor::check_device(options.device));
    if (options.compute != at::kFloat && options.compute != at::kBFloat16 && options.compute != at::kHalf) {
      return invalid_argument(
          fmt::format("cannot compute in {}: use float32, bfloat16 or float16", c10::toString(options.compute)));
    }
    Decoder decoder;
    decoder.options_ = options;
    AUTOGLM_ASSIGN_OR_RETURN(format::StoredModel stored, format::StoredModel::open(folder));
    AUTOGLM_RETURN_IF_ERROR(
        stored.check_activations(can_fake_quantize, "dynamic token and tensor, and static tensor,"));
    decoder.stored_ = std::make_shared<const format::StoredModel>(std::move(stored));
    const ModuleSpec* norm = decoder.layout().find(Role::kFinalNorm);
    AUTOGLM_ASSIGN_OR_RETURN(decoder.final_norm_,
                             tensor::load(decoder.checkpoint(), norm->weight_name(), options.compute, options.device));
    return decoder;
  });
}

Status Decoder::load_rows(const ModuleSpec& module, int64_t first, const at::Tensor& out) const {
  if (stored_->scheme_of(module) == nullptr) {
    return tensor::load_rows_into(checkpoint(), module.weight_name(), first, out);
  }
  AUTOGLM_ASSIGN_OR_RETURN(const format::QuantizedWeight rows,
                           format::decode_rows(*stored_, module, first, out.size(0)));
  stored_->release_weight(module);
  tensor::dequantize_into(rows, out);
  return ok_status();
}

Result<at::Tensor> Decoder::load_weight(const ModuleSpec& module, at::ScalarType type) const {
  return tensor::guarded([&]() -> Result<at::Tensor> {
    at::Tensor out = at::empty(module.shape, at::TensorOptions().dtype(type).device(options_.device));
    const int64_t rows = module.shape[0], step = rows_per_piece(module);
    for (int64_t first = 0; first < rows; first += step) {
      AUTOGLM_RETURN_IF_ERROR(load_rows(module, first, out.narrow(0, first, std::min(step, rows - first))));
    }
    return out;
  });
}

Result<Linear> Decoder::load_linear(const ModuleSpec& module) const {
  Linear linear;
  linear.spec = module;
  AUTOGLM_ASSIGN_OR_RETURN(linear.weight, load_weight(module, options_.compute));
  if (module.has_bias) {
    AUTOGLM_ASSIGN_OR_RETURN(linear.bias,
                             tensor::load(checkpoint(), module.bias_name(), options_.compute, options_.device));
  }
  AUTOGLM_ASSIGN_OR_RETURN(linear.input, stored_->input_quant(module));
  return linear;
}

Status Decoder::load_module(const ModuleSpec& module, Block& block) const {
  const auto vector = [&](at::Tensor& into, at::ScalarType type) -> Status {
    AUTOGLM_ASSIGN_OR_RETURN(into, tensor::load(checkpoint(), module.weight_name(), type, options_.device));
    return ok_status();
  };
  if (const auto norm = norm_member(module.role)) return vector(block.*norm, options_.compute);
  switch (module.role) {
    case Role::kRouter: return vector(block.moe->router, at::kFloat);
    case Role::kRouterCorrection: return vector(block.moe->correction, at::kFloat);
    default: break;
  }
  AUTOGLM_ASSIGN_OR_RETURN(Linear linear, load_linear(module));
  switch (module.role) {
    case Role::kQ:
    case Role::kK:
    case Role::kV:
    case Role::kQkv: block.qkv.push_back(std::move(linear)); return ok_status();
    case Role::kO: block.o = std::move(linear); return ok_status();
    default: break;
  }
  Mlp& mlp = module.expert >= 0 ? block.moe->experts[module.expert] : block.moe ? *block.moe->shared : *block.mlp;
  if (format::stage_of(module.role) == format::Stage::kDown) {
    mlp.down = std::move(linear);
  } else {
    mlp.gate_up.push_back(std::move(linear));
  }
  return ok_status();
}

Result<Block> Decoder::load_block(int64_t layer, const CancelToken* cancel) const {
  return tensor::guarded([&]() -> Result<Block> {
    if (layer < 0 || layer >= config().num_hidden_layers) {
      return invalid_argument(
          fmt::format("layer {} does not exist: the model has {}", layer, config().num_hidden_layers));
    }
    Block block;
    block.layer = layer;
    if (config().is_moe_layer(layer)) {
      block.moe.emplace().experts.resize(static_cast<size_t>(config().n_routed_experts));
      if (config().n_shared_experts > 0) block.moe->shared.emplace();
    } else {
      block.mlp.emplace();
    }
    for (const ModuleSpec* module : layout().block(layer)) {
      if (cancel != nullptr) AUTOGLM_RETURN_IF_ERROR(cancel->check());
      AUTOGLM_RETURN_IF_ERROR(load_module(*module, block));
    }
    return block;
  });
}

Result<at::Tensor> Decoder::embed(const at::Tensor& ids) const {
  return tensor::guarded([&]() -> Result<at::Tensor> {
    const at::NoGradGuard no_grad;
    const at::Tensor flat = ids.to(at::kCPU, at::kLong).reshape({-1});
    const ModuleSpec& table = *layout().find(Role::kEmbedding);
    auto [unique, places] = at::_unique(flat, /*sorted=*/true, /*return_inverse=*/true);
    const int64_t wanted = unique.numel();
    const int64_t* id = unique.const_data_ptr<int64_t>();
    if (wanted > 0 && (id[0] < 0 || id[wanted - 1] >= table.shape[0])) {
      return invalid_argument(fmt::format("token id {} is outside the vocabulary of {}",
                                          id[0] < 0 ? id[0] : id[wanted - 1], table.shape[0]));
    }
    at::Tensor rows = at::empty({wanted, config().hidden_size}, final_norm_.options());
    for (int64_t begin = 0, end = 0; begin < wanted; begin = end) {
      for (end = begin + 1; end < wanted && id[end] == id[end - 1] + 1;) ++end;
      AUTOGLM_RETURN_IF_ERROR(load_rows(table, id[begin], rows.narrow(0, begin, end - begin)));
    }
    std::vector<int64_t> shape = ids.sizes().vec();
    shape.push_back(config().hidden_size);
    return rows.index_select(0, places.to(options_.device)).view(shape);
  });
}

Result<at::Tensor> Decoder::embed(const std::vector<int32_t>& sequence) const {
  at::Tensor ids = at::empty({1, static_cast<int64_t>(sequence.size())}, at::kLong);
  std::copy(sequence.begin(), sequence.end(), ids.mutable_data_ptr<int64_t>());
  return embed(ids);
}

Result<at::Tensor> Decoder::head_input(const at::Tensor& hidden) const {
  return tensor::guarded([&]() -> Result<at::Tensor> {
    const at::NoGradGuard no_grad;
    return rms_norm(hidden.to(options_.device), final_norm_, config().rms_norm_eps);
  });
}

Result<at::Tensor> Decoder::logits(const at::Tensor& hidden) const {
  return tensor::guarded([&]() -> Result<at::Tensor> {
    const at::NoGradGuard no_grad;
    const ModuleSpec& module = stored_->head();
    at::Tensor x = rms_norm(hidden.to(options_.device), final_norm_, config().rms_norm_eps);
    AUTOGLM_ASSIGN_OR_RETURN(const auto quant, stored_->input_quant(module));
    if (quant) x = fake_quantize(x, *quant);
    if (head_.defined()) return at::linear(x, head_).to(at::kFloat);

    const int64_t vocab = module.shape[0], step = std::min(vocab, rows_per_piece(module));
    at::Tensor out = at::empty({x.size(0), vocab}, x.options().dtype(at::kFloat));
    const at::Tensor weight = at::empty({step, config().hidden_size}, x.options());
    for (int64_t first = 0; first < vocab; first += step) {
      const at::Tensor piece = weight.narrow(0, 0, std::min(step, vocab - first));
      AUTOGLM_RETURN_IF_ERROR(load_rows(module, first, piece));
      out.narrow(1, first, piece.size(0)).copy_(at::linear(x, piece));
    }
    return out;
  });
}

Status Decoder::keep_head() {
  if (head_.defined()) return ok_status();
  AUTOGLM_ASSIGN_OR_RETURN(head_, load_weight(stored_->head(), options_.compute));
  return ok_status();
}

int64_t Decoder::block_bytes(int64_t layer) const {
  const auto width = static_cast<int64_t>(c10::elementSize(options_.compute));
  int64_t total = 0;
  for (const ModuleSpec* module : layout().block(layer)) {
    const bool routing = module->role == Role::kRouter || module->role == Role::kRouterCorrection;
    int64_t elements = format::element_count(module->shape).value_or(0);
    if (module->has_bias) elements += module->shape[0];
    total += elements * (routing ? static_cast<int64_t>(sizeof(float)) : width);
  }
  return total;
}

int64_t Decoder::float_block_bytes() const {
  return block_bytes() * int64_t{4} / static_cast<int64_t>(c10::elementSize(options_.compute));
}

int64_t Decoder::backward_bytes(int64_t tokens) const {
  return tokens * int64_t{4} * (16 * config().hidden_size + 12 * config().intermediate_size);
}

double Decoder::block_flops() const {
  int64_t weights = 0;
  for (int64_t layer = 0; layer < config().num_hidden_layers; ++layer) {
    weights += block_bytes(layer) / static_cast<int64_t>(c10::elementSize(options_.compute));
  }
  return 2.0 * static_cast<double>(weights);
}

int64_t Decoder::block_bytes() const {
  int64_t largest = 0;
  for (int64_t layer = 0; layer < config().num_hidden_layers; ++layer) largest = std::max(largest, block_bytes(layer));
  return largest;
}

int64_t Decoder::head_bytes() const {
  return format::element_count(stored_->head().shape).value_or(0) *
         static_cast<int64_t>(c10::elementSize(options_.compute));
}

}  // namespace autoglm::model
