#include "core/format/weight_rows.h"

#include <fmt/format.h>

#include <algorithm>

namespace autoglm::format {
namespace {

int64_t rows_of(const ModuleSpec& module) { return module.shape.empty() ? 0 : module.shape.front(); }
int64_t cols_of(const ModuleSpec& module) { return module.shape.size() == 2 ? module.shape[1] : 1; }

RowSegment whole(const ModuleSpec& module) { return {&module, 0, rows_of(module)}; }

/// Roles that one fused matrix holds, one above the other.
struct Fusion {
  Role fused;
  std::vector<Role> parts;
};
const std::vector<Fusion>& fusions() {
  static const std::vector<Fusion> list{{Role::kQkv, {Role::kQ, Role::kK, Role::kV}},
                                        {Role::kGateUp, {Role::kGate, Role::kUp}}};
  return list;
}

/// Rows of each part of a fused matrix, from the config.
std::vector<int64_t> part_rows(const ModelConfig& config, Role fused) {
  if (fused == Role::kGateUp) return {config.intermediate_size, config.intermediate_size};
  const int64_t kv = config.num_key_value_heads * config.head_dim;
  return {config.num_attention_heads * config.head_dim, kv, kv};
}

std::vector<RowSegment> find_segments(const StoredModel& model, const ModuleSpec& wanted) {
  const TensorLayout& layout = model.layout;
  if (const ModuleSpec* same = layout.find(wanted.role, wanted.layer, wanted.expert)) return {whole(*same)};
  if (wanted.role == Role::kHead && model.config.tie_word_embeddings) {
    if (const ModuleSpec* embedding = layout.find(Role::kEmbedding)) return {whole(*embedding)};
  }
  for (const Fusion& fusion : fusions()) {
    if (wanted.role == fusion.fused) {
      std::vector<RowSegment> parts;
      for (const Role role : fusion.parts) {
        const ModuleSpec* part = layout.find(role, wanted.layer, wanted.expert);
        if (part == nullptr) return {};
        parts.push_back(whole(*part));
      }
      return parts;
    }
    const auto part = std::find(fusion.parts.begin(), fusion.parts.end(), wanted.role);
    const ModuleSpec* fused = layout.find(fusion.fused, wanted.layer, wanted.expert);
    if (part == fusion.parts.end() || fused == nullptr) continue;
    const std::vector<int64_t> rows = part_rows(model.config, fusion.fused);
    RowSegment segment{fused, 0, rows[static_cast<size_t>(part - fusion.parts.begin())]};
    for (auto before = fusion.parts.begin(); before != part; ++before) {
      segment.first += rows[static_cast<size_t>(before - fusion.parts.begin())];
    }
    if (segment.first + segment.rows > rows_of(*fused)) return {};
    return {segment};
  }
  return {};
}

}  // namespace

std::string tensor_name(const ModuleSpec& module, Member member) {
  return member == Member::kBias ? module.bias_name() : module.weight_name();
}

Result<QuantizedWeight> decode_rows(const StoredModel& model, const ModuleSpec& module, int64_t first, int64_t count) {
  const QuantScheme& scheme = *model.scheme_of(module);
  return decode_rows(model.checkpoint, module.name, scheme, model.quantization->format_of(scheme), module.shape, first,
                     count);
}

Status check_token_or_tensor_activations(const StoredModel& model) {
  const auto runs = [](const QuantArgs& args) {
    return args.strategy == (args.dynamic ? Strategy::kToken : Strategy::kTensor);
  };
  return model.check_activations(runs, "dynamic token and static tensor");
}

Result<std::map<const ModuleSpec*, InputQuant>> quantized_inputs(const StoredModel& model) {
  AUTOGLM_RETURN_IF_ERROR(check_token_or_tensor_activations(model));
  std::map<const ModuleSpec*, InputQuant> inputs;
  for (const ModuleSpec& module : model.layout.modules()) {
    if (model.scheme_of(module) == nullptr) continue;
    AUTOGLM_RETURN_IF_ERROR(decode_rows(model, module, 0, 0).status());  // all is there, and fits
    AUTOGLM_ASSIGN_OR_RETURN(const auto input, model.input_quant(module));
    if (input) inputs.emplace(&module, *input);
  }
  return inputs;
}

WeightRows::WeightRows(const StoredModel& model, Member member, std::vector<RowSegment> segments)
    : model_(&model), member_(member), segments_(std::move(segments)) {
  for (const RowSegment& segment : segments_) rows_ += segment.rows;
  if (member_ == Member::kWeight && !segments_.empty()) cols_ = cols_of(*segments_.front().module);
}

WeightRows WeightRows::of(const StoredModel& model, const ModuleSpec& module, Member member) {
  return {model, member, {whole(module)}};
}

WeightRows WeightRows::matching(const StoredModel& model, const ModuleSpec& module, Member member) {
  std::vector<RowSegment> segments = find_segments(model, module);
  const bool has_member = std::all_of(segments.begin(), segments.end(), [&](const RowSegment& segment) {
    return member == Member::kWeight || segment.module->has_bias;
  });
  if (!has_member) segments.clear();
  return {model, member, std::move(segments)};
}

std::vector<std::string> WeightRows::stored_names() const {
  std::vector<std::string> names;
  for (const RowSegment& segment : segments_) {
    const ModuleSpec& module = *segment.module;
    if (member_ == Member::kBias) {
      if (model_->checkpoint.find(module.bias_name()) != nullptr) names.push_back(module.bias_name());
      continue;
    }
    for (std::string& name : model_->weight_tensors(module)) names.push_back(std::move(name));
  }
  return names;
}

void WeightRows::release() const {
  for (const std::string& name : stored_names()) model_->checkpoint.release(name);
}

Status WeightRows::read_segment(const RowSegment& segment, int64_t first, int64_t count, std::span<float> out) const {
  const ModuleSpec& module = *segment.module;
  if (member_ == Member::kWeight) {
    if (model_->scheme_of(module) != nullptr) {
      AUTOGLM_ASSIGN_OR_RETURN(const auto weight, decode_rows(*model_, module, first, count));
      dequantize(weight, out);
      return ok_status();
    }
  }
  const std::string name = tensor_name(module, member_);
  AUTOGLM_ASSIGN_OR_RETURN(const auto bytes, model_->checkpoint.bytes(name));
  const DType dtype = model_->checkpoint.find(name)->dtype;
  const int64_t row_bytes = cols_ * size_of(dtype);
  if (!is_float(dtype) || static_cast<int64_t>(bytes.size()) != rows_of(module) * row_bytes) {
    return bad_input(fmt::format("{}: {} does not hold floats in the shape that config.json asks for",
                                 model_->checkpoint.file_of(name).string(), name));
  }
  to_float(dtype, bytes.subspan(static_cast<size_t>(first * row_bytes), static_cast<size_t>(count * row_bytes)), out);
  return ok_status();
}

Status WeightRows::read(int64_t first, int64_t count, std::span<float> out) const {
  int64_t above = 0;  // rows of the segments before this one
  for (const RowSegment& segment : segments_) {
    const int64_t begin = std::max(first, above), end = std::min(first + count, above + segment.rows);
    if (begin < end) {
      const auto part =
          out.subspan(static_cast<size_t>((begin - first) * cols_), static_cast<size_t>((end - begin) * cols_));
      AUTOGLM_RETURN_IF_ERROR(read_segment(segment, segment.first + begin - above, end - begin, part));
    }
    above += segment.rows;
  }
  return ok_status();
}

}  // namespace autoglm::format
