#include "core/format/tensor_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <set>
#include <system_error>
#include <unordered_set>

#include "core/format/display.h"

namespace autoglm::format {
namespace {

/// Names inside a block and around the blocks, which chatglm spells in its own way.
struct Names {
  std::string_view embedding, layers, final_norm;
  std::string_view attention, mlp_norm, o, gate_up, down;
};
constexpr Names kNames = {"embed_tokens", "layers",       "norm",     "self_attn", "post_attention_layernorm",
                          "o_proj",       "gate_up_proj", "down_proj"};
constexpr Names kChatGlmNames = {
    "embedding.word_embeddings", "encoder.layers", "encoder.final_layernorm", "self_attention",
    "post_attention_layernorm",  "dense",          "dense_h_to_4h",           "dense_4h_to_h"};

const Names& names_of(const ModelConfig& config) { return config.family == Family::kChatGlm ? kChatGlmNames : kNames; }

/// Prefixes seen in published checkpoints, the usual one of the family first: text models, vision models of
/// transformers >= 4.52 and before, and base models saved without their head.
std::vector<TensorPrefix> known_prefixes(Family family) {
  if (family == Family::kChatGlm) return {{"transformer.", "transformer.output_layer"}, {"", "output_layer"}};
  std::vector<TensorPrefix> all = {{"model.", "lm_head"},
                                   {"model.language_model.", "lm_head"},
                                   {"language_model.model.", "language_model.lm_head"},
                                   {"language_model.", "lm_head"},
                                   {"", "lm_head"}};
  if (family == Family::kGlm4v) std::swap(all[0], all[1]);
  return all;
}

std::string show(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

/// How a module's weight is stored.
enum class Storage { kAbsent, kFloat, kQuantized };

Storage storage_of(const Checkpoint& checkpoint, const std::string& module) {
  if (checkpoint.find(module + ".weight_packed") != nullptr) return Storage::kQuantized;
  const TensorInfo* weight = checkpoint.find(module + ".weight");
  if (weight == nullptr) return Storage::kAbsent;
  const bool integer = weight->dtype == DType::kI8 || weight->dtype == DType::kU8 || weight->dtype == DType::kI32;
  return integer && checkpoint.find(module + ".weight_scale") != nullptr ? Storage::kQuantized : Storage::kFloat;
}

bool holds_values(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF64;
}

Status check_tensor(const Checkpoint& checkpoint, const std::string& name, const Shape& expected) {
  const TensorInfo* tensor = checkpoint.find(name);
  if (tensor == nullptr) {
    return bad_input(fmt::format("{}: tensor {} is missing, config.json asks for it with shape {}",
                                 display_path(checkpoint.folder()), display(name), show(expected)));
  }
  const std::string where = fmt::format("{}: tensor {}", display_path(checkpoint.file_of(name)), display(name));
  if (tensor->shape != expected) {
    return bad_input(
        fmt::format("{} has shape {}, config.json asks for {}", where, show(tensor->shape), show(expected)));
  }
  if (!holds_values(tensor->dtype)) {
    return bad_input(
        fmt::format("{} has type {}, weights must be F32, BF16, F16 or F64, or quantized by compressed-tensors", where,
                    to_string(tensor->dtype)));
  }
  return ok_status();
}

Status check_module(const Checkpoint& checkpoint, const ModuleSpec& module) {
  const bool quantizable = is_linear(module.role) || module.role == Role::kEmbedding;
  if (!quantizable || storage_of(checkpoint, module.name) != Storage::kQuantized) {
    AUTOGLM_RETURN_IF_ERROR(check_tensor(checkpoint, module.weight_name(), module.shape));
  }
  if (module.has_bias) return check_tensor(checkpoint, module.bias_name(), {module.shape[0]});
  if (!quantizable || checkpoint.find(module.bias_name()) == nullptr) return ok_status();
  return bad_input(fmt::format("{}: tensor {} is stored, but by config.json this projection has no bias",
                               display_path(checkpoint.file_of(module.bias_name())), display(module.bias_name())));
}

/// Experts as one 3-D tensor exist in memory (transformers 5) but in no published checkpoint: save_pretrained splits
/// them.
Status refuse_fused_experts(const Checkpoint& checkpoint, const ModuleSpec& expert) {
  const std::string prefix = expert.name.substr(0, expert.name.find(".experts.") + 9);
  for (const char* name : {"gate_up_proj", "gate_up_proj.weight", "down_proj"}) {
    if (checkpoint.find(prefix + name) == nullptr) continue;
    return bad_input(
        fmt::format("{}: tensor {} holds all experts of a layer, which is not supported; store one matrix for "
                    "each, as transformers' save_pretrained does",
                    display_path(checkpoint.file_of(prefix + name)), display(prefix + name)));
  }
  return ok_status();
}

/// A head that is stored though config.json ties it: fine if it is the embedding again.
Status check_tied_head(const Checkpoint& checkpoint, const std::string& head, const std::string& embedding) {
  const std::string head_name = head + ".weight", embedding_name = embedding + ".weight";
  const TensorInfo* stored = checkpoint.find(head_name);
  const TensorInfo* source = checkpoint.find(embedding_name);
  if (stored == nullptr || source == nullptr) return ok_status();
  bool equal = stored->dtype == source->dtype && stored->shape == source->shape;
  if (equal) {
    AUTOGLM_ASSIGN_OR_RETURN(const auto a, checkpoint.bytes(head_name));
    AUTOGLM_ASSIGN_OR_RETURN(const auto b, checkpoint.bytes(embedding_name));
    // One page in every megabyte: two matrices that were trained apart differ everywhere.
    constexpr size_t kStep = 1 << 20, kPage = 4096;
    for (size_t at = 0; equal && at < a.size(); at += kStep) {
      equal = std::memcmp(a.data() + at, b.data() + at, std::min(kPage, a.size() - at)) == 0;
    }
    checkpoint.release(head_name);
    checkpoint.release(embedding_name);
  }
  if (equal) return ok_status();
  return bad_input(
      fmt::format("{}: tensor {} differs from {}, but config.json ties them; set tie_word_embeddings to false "
                  "to use it, or remove it",
                  display_path(checkpoint.file_of(head_name)), display(head_name), display(embedding_name)));
}

}  // namespace

std::string_view to_string(Role role) {
  switch (role) {
    case Role::kEmbedding: return "embedding";
    case Role::kFinalNorm: return "final_norm";
    case Role::kHead: return "head";
    case Role::kInputNorm: return "input_norm";
    case Role::kQ: return "q";
    case Role::kK: return "k";
    case Role::kV: return "v";
    case Role::kQkv: return "qkv";
    case Role::kQNorm: return "q_norm";
    case Role::kKNorm: return "k_norm";
    case Role::kO: return "o";
    case Role::kPostAttentionNorm: return "post_attention_norm";
    case Role::kMlpNorm: return "mlp_norm";
    case Role::kGate: return "gate";
    case Role::kUp: return "up";
    case Role::kGateUp: return "gate_up";
    case Role::kDown: return "down";
    case Role::kPostMlpNorm: return "post_mlp_norm";
    case Role::kRouter: return "router";
    case Role::kRouterCorrection: return "router_correction";
    case Role::kExpertGate: return "expert_gate";
    case Role::kExpertUp: return "expert_up";
    case Role::kExpertDown: return "expert_down";
    case Role::kSharedGate: return "shared_gate";
    case Role::kSharedUp: return "shared_up";
    case Role::kSharedDown: return "shared_down";
  }
  return "unknown";
}

std::optional<Stage> stage_of(Role role) {
  switch (role) {
    case Role::kQ:
    case Role::kK:
    case Role::kV:
    case Role::kQkv: return Stage::kQkv;
    case Role::kO: return Stage::kO;
    case Role::kGate:
    case Role::kUp:
    case Role::kGateUp:
    case Role::kExpertGate:
    case Role::kExpertUp:
    case Role::kSharedGate:
    case Role::kSharedUp: return Stage::kGateUp;
    case Role::kDown:
    case Role::kExpertDown:
    case Role::kSharedDown: return Stage::kDown;
    default: return std::nullopt;
  }
}

bool is_linear(Role role) { return role == Role::kHead || stage_of(role).has_value(); }

std::string ModuleSpec::weight_name() const { return role == Role::kRouterCorrection ? name : name + ".weight"; }

TensorLayout::TensorLayout(const ModelConfig& config, const TensorPrefix& prefix) {
  const Names& names = names_of(config);
  const auto full = [&](std::string_view name) { return prefix.decoder + std::string(name); };
  add(Role::kEmbedding, full(names.embedding), {config.vocab_size, config.hidden_size});
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    add_block(config, fmt::format("{}{}.{}.", prefix.decoder, names.layers, layer), layer);
  }
  add(Role::kFinalNorm, full(names.final_norm), {config.hidden_size});
  if (config.tie_word_embeddings) {
    tied_head_ = prefix.head;
  } else {
    add(Role::kHead, prefix.head, {config.vocab_size, config.hidden_size});
  }
}

void TensorLayout::add(Role role, std::string name, Shape shape, bool has_bias, int64_t layer, int64_t expert) {
  index_[{role, layer, expert}] = modules_.size();
  modules_.push_back({role, layer, expert, std::move(name), std::move(shape), has_bias});
}

void TensorLayout::add_block(const ModelConfig& c, const std::string& prefix, int64_t layer) {
  const Names& names = names_of(c);
  const std::string attention = fmt::format("{}{}.", prefix, names.attention);
  const std::string mlp = prefix + "mlp.";
  const int64_t q = c.num_attention_heads * c.head_dim;
  const int64_t kv = c.num_key_value_heads * c.head_dim;
  const auto put = [&](Role role, const std::string& base, std::string_view name, Shape shape, bool bias = false) {
    add(role, base + std::string(name), std::move(shape), bias, layer);
  };

  put(Role::kInputNorm, prefix, "input_layernorm", {c.hidden_size});
  if (c.fused_qkv) {
    put(Role::kQkv, attention, "query_key_value", {q + 2 * kv, c.hidden_size}, c.attention_bias);
  } else {
    put(Role::kQ, attention, "q_proj", {q, c.hidden_size}, c.attention_bias);
    put(Role::kK, attention, "k_proj", {kv, c.hidden_size}, c.attention_bias);
    put(Role::kV, attention, "v_proj", {kv, c.hidden_size}, c.attention_bias);
  }
  if (c.qk_norm) {
    put(Role::kQNorm, attention, "q_norm", {c.head_dim});
    put(Role::kKNorm, attention, "k_norm", {c.head_dim});
  }
  put(Role::kO, attention, names.o, {c.hidden_size, q}, c.output_bias);
  if (c.sandwich_norms) put(Role::kPostAttentionNorm, prefix, "post_self_attn_layernorm", {c.hidden_size});

  put(Role::kMlpNorm, prefix, names.mlp_norm, {c.hidden_size});
  if (c.is_moe_layer(layer)) {
    add_experts(c, mlp, layer);
  } else {
    if (c.fused_gate_up) {
      put(Role::kGateUp, mlp, names.gate_up, {2 * c.intermediate_size, c.hidden_size}, c.mlp_bias);
    } else {
      put(Role::kGate, mlp, "gate_proj", {c.intermediate_size, c.hidden_size}, c.mlp_bias);
      put(Role::kUp, mlp, "up_proj", {c.intermediate_size, c.hidden_size}, c.mlp_bias);
    }
    put(Role::kDown, mlp, names.down, {c.hidden_size, c.intermediate_size}, c.mlp_bias);
  }
  if (c.sandwich_norms) put(Role::kPostMlpNorm, prefix, "post_mlp_layernorm", {c.hidden_size});
}

void TensorLayout::add_experts(const ModelConfig& c, const std::string& mlp, int64_t layer) {
  add(Role::kRouter, mlp + "gate", {c.n_routed_experts, c.hidden_size}, false, layer);
  add(Role::kRouterCorrection, mlp + "gate.e_score_correction_bias", {c.n_routed_experts}, false, layer);
  const auto put = [&](Role gate, Role up, Role down, const std::string& base, int64_t width, int64_t expert) {
    add(gate, base + "gate_proj", {width, c.hidden_size}, false, layer, expert);
    add(up, base + "up_proj", {width, c.hidden_size}, false, layer, expert);
    add(down, base + "down_proj", {c.hidden_size, width}, false, layer, expert);
  };
  for (int64_t expert = 0; expert < c.n_routed_experts; ++expert) {
    put(Role::kExpertGate, Role::kExpertUp, Role::kExpertDown, fmt::format("{}experts.{}.", mlp, expert),
        c.moe_intermediate_size, expert);
  }
  if (c.n_shared_experts == 0) return;
  put(Role::kSharedGate, Role::kSharedUp, Role::kSharedDown, mlp + "shared_experts.",
      c.moe_intermediate_size * c.n_shared_experts, -1);
}

TensorLayout TensorLayout::describe(const ModelConfig& config) {
  return TensorLayout(config, known_prefixes(config.family).front());
}

Result<TensorLayout> TensorLayout::resolve(const ModelConfig& config, const Checkpoint& checkpoint) {
  std::vector<TensorPrefix> prefixes = known_prefixes(config.family);
  const auto found = std::find_if(prefixes.begin(), prefixes.end(), [&](const TensorPrefix& prefix) {
    return storage_of(checkpoint, prefix.decoder + std::string(names_of(config).embedding)) != Storage::kAbsent;
  });
  TensorPrefix prefix = found == prefixes.end() ? prefixes.front() : *found;
  for (const TensorPrefix& candidate : prefixes) {
    if (storage_of(checkpoint, prefix.head) != Storage::kAbsent) break;
    if (storage_of(checkpoint, candidate.head) != Storage::kAbsent) prefix.head = candidate.head;
  }

  TensorLayout layout(config, prefix);
  for (const ModuleSpec& module : layout.modules_) {
    if (module.role == Role::kExpertGate && module.expert == 0) {
      AUTOGLM_RETURN_IF_ERROR(refuse_fused_experts(checkpoint, module));
    }
    AUTOGLM_RETURN_IF_ERROR(check_module(checkpoint, module));
  }
  if (!layout.tied_head_.empty()) {
    AUTOGLM_RETURN_IF_ERROR(check_tied_head(checkpoint, layout.tied_head_, layout.modules_.front().name));
  }
  return layout;
}

std::vector<const ModuleSpec*> TensorLayout::block(int64_t layer) const {
  std::vector<const ModuleSpec*> modules;
  const auto of_layer = [](const ModuleSpec& module, int64_t wanted) { return module.layer < wanted; };
  // After the embedding, layers ascend; final norm and head (layer -1) end the range.
  auto last = modules_.end();
  while (last != modules_.begin() + 1 && (last - 1)->layer < 0) --last;
  for (auto at = std::lower_bound(modules_.begin() + 1, last, layer, of_layer); at != last && at->layer == layer;
       ++at) {
    modules.push_back(&*at);
  }
  return modules;
}

const ModuleSpec* TensorLayout::find(Role role, int64_t layer, int64_t expert) const {
  const auto found = index_.find({role, layer, expert});
  return found == index_.end() ? nullptr : &modules_[found->second];
}

std::vector<std::string> TensorLayout::others(const Checkpoint& checkpoint) const {
  std::unordered_set<std::string> ours;
  const auto claim = [&](const std::string& module) {
    for (const char* suffix : {".weight", ".bias", ".weight_packed", ".weight_scale", ".weight_zero_point",
                               ".weight_shape", ".weight_g_idx", ".input_scale", ".input_zero_point"}) {
      ours.insert(module + suffix);
    }
  };
  for (const ModuleSpec& module : modules_) {
    if (module.role == Role::kRouterCorrection) {
      ours.insert(module.name);
    } else {
      claim(module.name);
    }
  }
  if (!tied_head_.empty()) claim(tied_head_);
  std::vector<std::string> rest;
  for (const std::string& name : checkpoint.names()) {
    if (!ours.contains(name)) rest.push_back(name);
  }
  return rest;
}

std::vector<int64_t> TensorLayout::surplus_layers(const ModelConfig& config, const Checkpoint& checkpoint) const {
  const std::string& first = find(Role::kInputNorm, 0)->name;
  const std::string layers = first.substr(0, first.find(".0.") + 1);
  std::set<int64_t> surplus;
  for (const std::string& name : others(checkpoint)) {
    if (!name.starts_with(layers)) continue;
    int64_t layer = -1;
    const char* begin = name.data() + layers.size();
    const auto [end, error] = std::from_chars(begin, name.data() + name.size(), layer);
    if (error != std::errc() || end == name.data() + name.size() || *end != '.') continue;
    if (layer >= config.num_hidden_layers + config.num_nextn_predict_layers) surplus.insert(layer);
  }
  return {surplus.begin(), surplus.end()};
}

}  // namespace autoglm::format
