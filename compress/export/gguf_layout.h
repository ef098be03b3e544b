#pragma once
/// Which tensor of a GGUF file a module's rows are, under which name and in which order, for each family.
#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/format/model_config.h"
#include "core/format/tensor_layout.h"

namespace autoglm::exports {

/// How llama.cpp orders the rows of q and k heads, where not as transformers does.
enum class HeadOrder {
  kSame,
  kInterleaved,  ///< transformers rotates halves, llama.cpp neighbours
  kHalves,       ///< the reverse, of the rotated rows
};

/// llama.cpp's architecture for a family.
struct Architecture {
  format::Family family = format::Family::kGlm;
  std::string_view name;
  HeadOrder order = HeadOrder::kSame;
};
Architecture architecture_of(format::Family family);

/// That of the family which a file of this architecture is read as; nothing for a name that is not known.
std::optional<Architecture> architecture_named(std::string_view name);
std::vector<std::string_view> known_architectures();

/// "blk.3.attn_q.weight". Routed experts share one tensor.
std::string gguf_name(const Architecture& architecture, const format::ModuleSpec& module, bool is_bias);

bool is_routed_expert(format::Role role);

/// Whether the rows of a module are heads that llama.cpp orders in another way.
bool has_ordered_heads(const Architecture& architecture, format::Role role);

/// Puts the rows of whole heads, of `width` elements each, from transformers' order into llama.cpp's, or back.
template <typename T>
void reorder_heads(HeadOrder order, const format::ModelConfig& config, int64_t width, bool back, std::vector<T>& rows) {
  const std::vector<T> source = rows;
  const int64_t head = config.head_dim, rotated = config.rotary_dim;
  const bool to_neighbours = (order == HeadOrder::kInterleaved) != back;
  for (int64_t to = 0; to < static_cast<int64_t>(rows.size()) / width; ++to) {
    const int64_t i = to % head;
    if (i >= rotated) continue;
    const int64_t from = to_neighbours ? i % 2 * (rotated / 2) + i / 2 : i % (rotated / 2) * 2 + i / (rotated / 2);
    std::copy_n(source.begin() + (to - i + from) * width, width, rows.begin() + to * width);
  }
}

}  // namespace autoglm::exports
