#include "compress/export/gguf_layout.h"

#include <fmt/format.h>

#include <iterator>

namespace autoglm::exports {
namespace {

using format::Family;
using format::Role;

// Of several families with one name, the one that a file is read as comes first.
constexpr Architecture kArchitectures[] = {
    {Family::kGlm, "chatglm"},     {Family::kChatGlm, "chatglm"},
    {Family::kGlm4, "glm4"},       {Family::kGlm4v, "glm4", HeadOrder::kHalves},
    {Family::kGlm4Moe, "glm4moe"}, {Family::kLlama, "llama", HeadOrder::kInterleaved},
    {Family::kQwen2, "qwen2"},     {Family::kQwen3, "qwen3"}};

std::string_view name_of(Role role, const Architecture& architecture) {
  switch (role) {
    case Role::kEmbedding: return "token_embd";
    case Role::kFinalNorm: return "output_norm";
    case Role::kHead: return "output";
    case Role::kInputNorm: return "attn_norm";
    case Role::kQ: return "attn_q";
    case Role::kK: return "attn_k";
    case Role::kV: return "attn_v";
    case Role::kQkv: return "attn_qkv";
    case Role::kQNorm: return "attn_q_norm";
    case Role::kKNorm: return "attn_k_norm";
    case Role::kO: return "attn_output";
    case Role::kPostAttentionNorm: return "post_attention_norm";
    case Role::kMlpNorm: return architecture.name == "glm4moe" ? "post_attention_norm" : "ffn_norm";
    case Role::kGate: return "ffn_gate";
    case Role::kUp:
    case Role::kGateUp: return "ffn_up";
    case Role::kDown: return "ffn_down";
    case Role::kPostMlpNorm: return "post_ffw_norm";
    case Role::kRouter: return "ffn_gate_inp";
    case Role::kRouterCorrection: return "exp_probs_b";
    case Role::kExpertGate: return "ffn_gate_exps";
    case Role::kExpertUp: return "ffn_up_exps";
    case Role::kExpertDown: return "ffn_down_exps";
    case Role::kSharedGate: return "ffn_gate_shexp";
    case Role::kSharedUp: return "ffn_up_shexp";
    case Role::kSharedDown: return "ffn_down_shexp";
  }
  return "";
}

}  // namespace

Architecture architecture_of(Family family) {
  return *std::find_if(std::begin(kArchitectures), std::end(kArchitectures),
                       [&](const Architecture& one) { return one.family == family; });
}

std::optional<Architecture> architecture_named(std::string_view name) {
  const auto found = std::find_if(std::begin(kArchitectures), std::end(kArchitectures),
                                  [&](const Architecture& one) { return one.name == name; });
  return found == std::end(kArchitectures) ? std::nullopt : std::optional(*found);
}

std::vector<std::string_view> known_architectures() {
  std::vector<std::string_view> names;
  for (const Architecture& one : kArchitectures) {
    if (std::find(names.begin(), names.end(), one.name) == names.end()) names.push_back(one.name);
  }
  return names;
}

std::string gguf_name(const Architecture& architecture, const format::ModuleSpec& module, bool is_bias) {
  return fmt::format("{}{}.{}", module.layer >= 0 ? fmt::format("blk.{}.", module.layer) : "",
                     name_of(module.role, architecture),
                     is_bias || module.role == Role::kRouterCorrection ? "bias" : "weight");
}

bool is_routed_expert(Role role) {
  return role == Role::kExpertGate || role == Role::kExpertUp || role == Role::kExpertDown;
}

bool has_ordered_heads(const Architecture& architecture, Role role) {
  return architecture.order != HeadOrder::kSame && (role == Role::kQ || role == Role::kK);
}

}  // namespace autoglm::exports
